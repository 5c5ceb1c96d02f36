"""What a student starts from on a task: a general stage, as in the papers, or the fine-tuned teacher's own layers."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

ENOUGH = 100  # megabytes of text files (about 20 million words) from which a general stage is taken to be worth its time


def chosen(cfg: DictConfig) -> tuple[str, str]:
    """The word of `starts` that this configuration means, and why, for start=auto."""
    if cfg.start != "auto":
        return cfg.start, ""
    if cfg.teacher.answers is not None:
        return "corpus", "answers have no layers that a student could take"
    if cfg.student.get("path") is not None:
        return "corpus", "student.path names the student of a general stage"
    if OmegaConf.select(cfg, "corpus") is None:  # or nothing has been said
        return "teacher", "no corpus is named for a general stage"
    size = megabytes(cfg.corpus)
    if size is None:
        return "corpus", "the corpus is a data set of the hub"
    enough = size >= ENOUGH
    return "corpus" if enough else "teacher", f"the corpus has {size:,.1f} MB of {ENOUGH} that make a general stage worth it"


def megabytes(corpus: str | list[str]) -> float | None:
    """Of a corpus's files, as they lie on disk; None for a name of the hub. The embedded one is a few."""
    names = [corpus] if isinstance(corpus, str) else list(corpus)
    files = [Path(name) for name in names if name != "docs"]
    if not all(file.is_file() for file in files):
        return None
    return sum(file.stat().st_size for file in files) / 1e6


def check(cfg: DictConfig) -> None:
    """Raises ValueError for a start that the method does not have."""
    possible = list(dict.fromkeys(["auto", "corpus", *cfg.get("starts", {})]))
    if cfg.start not in possible:
        raise ValueError(f"start={cfg.start}: method={cfg.method.name} has no such start. Choose {' or '.join(possible)}.")
    if cfg.start == "teacher" and cfg.teacher.answers is not None:
        raise ValueError("start=teacher: teacher.answers have no layers that a student could take. Write start=corpus.")
