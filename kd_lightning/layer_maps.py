"""Layer maps: pairs (student layer, teacher layer), numbered as in the papers (1 is the first block)."""

from collections.abc import Sequence

Pairs = list[tuple[int, int]]


def uniform(student: int, teacher: int) -> Pairs:
    """g(m) = m · N / M: every (N/M)-th teacher layer, ending on the last (TinyBERT, section 4.1).

    Six of twelve layers are 2, 4, 6, 8, 10, 12, which is also the choice of the lecture that this project implements.
    """
    if teacher % student:
        raise ValueError(
            f"uniform layer map: {teacher} teacher layers do not divide over {student} student layers. "
            "Name the pairs instead, e.g. layers=[[1,2],[2,5]]."
        )
    return [(m, m * teacher // student) for m in range(1, student + 1)]


def top(student: int, teacher: int) -> Pairs:
    """g(m) = m + N - M: the teacher's last M layers."""
    return [(m, m + teacher - student) for m in range(1, student + 1)]


def bottom(student: int, teacher: int) -> Pairs:
    """g(m) = m: the teacher's first M layers."""
    return [(m, m) for m in range(1, student + 1)]


def alternate(student: int, teacher: int) -> Pairs:
    """g(m) = 2m - 1: the teacher's 1st, 3rd, 5th ... layer."""
    return [(m, 2 * m - 1) for m in range(1, student + 1)]


def last(student: int, teacher: int) -> Pairs:
    """The two last layers and no other."""
    return [(student, teacher)]


def hf_official(student: int, teacher: int) -> Pairs:
    """The layers of the released DistilBERT: 1, 3, 5, 8, 10, 12 of twelve (its script counts 0, 2, 4, 7, 9, 11)."""
    if (student, teacher) != (6, 12):
        raise ValueError(
            f"layer map hf_official: it is made for 6 student and 12 teacher layers, not {student} and {teacher}. "
            "Choose uniform or alternate, or list the teacher's layers, e.g. [1,3,5]."
        )
    return list(enumerate((1, 3, 5, 8, 10, 12), start=1))


NAMED = {
    "uniform": uniform,
    "top": top,
    "bottom": bottom,
    "last": last,
    "hf_official": hf_official,
    "alternate": alternate,
}


def resolve(layers: str | Sequence[Sequence[int]], student: int, teacher: int, lowest: int = 1) -> Pairs:
    """The pairs that a name or a list of pairs stands for, each checked to exist.

    student, teacher: numbers of layers. lowest: 0 where the embedding output may be paired, else 1.
    """
    if isinstance(layers, str):
        if layers not in NAMED:
            raise ValueError(f"layer map '{layers}' is unknown: choose one of {', '.join(NAMED)}, or list the pairs.")
        pairs = NAMED[layers](student, teacher)
    elif not layers or any(isinstance(pair, int) or len(pair) != 2 for pair in layers):
        raise ValueError(f"layer map {layers}: a list of pairs [student, teacher] is wanted, e.g. [[1,2],[2,5]].")
    else:
        pairs = [(int(s), int(t)) for s, t in layers]
    for s, t in pairs:
        if not (lowest <= s <= student and lowest <= t <= teacher):
            zero = " (0 is the embedding output)" if lowest == 0 else ""
            raise ValueError(
                f"layer pair [{s},{t}]: the student has layers {lowest}..{student} and the teacher {lowest}..{teacher}{zero}."
            )
    if len({s for s, _ in pairs}) != len(pairs):
        raise ValueError(f"layer map {[list(pair) for pair in pairs]}: a student layer appears twice.")
    return pairs


def resolve_copy(layers: str | Sequence[int], student: int, teacher: int) -> list[int]:
    """Which teacher layers (1..N) initialise student layers 1..M: a name, or M numbers in increasing order."""
    named = isinstance(layers, str)
    chosen = [t for _, t in resolve(layers, student, teacher)] if named else [int(layer) for layer in layers]
    if len(chosen) != student:
        raise ValueError(f"layers to copy {chosen}: {len(chosen)} teacher layers are listed for {student} of the student.")
    if chosen != sorted(set(chosen)) or chosen[0] < 1 or chosen[-1] > teacher:
        raise ValueError(
            f"layers to copy {chosen}: they must increase and lie in 1..{teacher} (1 is the teacher's first layer)."
        )
    return chosen
