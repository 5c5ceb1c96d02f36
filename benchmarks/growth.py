"""What grows with the data: `python benchmarks/growth.py [axis ...] [--mb 1 10 100] [--rows 1000 10000 100000 1000000] ...`.

    corpus   the general stages of DistilBERT and TinyBERT over MB of text, which TinyBERT's finds tokenised already
    rows     a task's stages over its rows, two classes: teacher, TinyBERT's two, and DistilBERT's with soft targets
    classes  the same over classes, with five rows a class of the largest number that is asked for, and 10,000 at least
    length   the same over tokens a row, 2,000 rows

Each line of a table is `train.py` with one stage, in a process of its own: seconds by the clock and of the processor (all of
its threads, and the processes that it starts), and the peak of memory (its largest resident set, without theirs) with the part
in which it was reached. The other columns are the parts, in seconds of the processor:

    plan      what each artifact is made of, and the rehearsal's networks
    prepare   read, check, tokenise, store and open the data, in the rehearsal and in the stage
    train     the steps, of which there are --steps at the most
    validate  the losses of the validations: before the first step, and after the last
    metrics   what the metrics callback adds to these
    predict   the answers to the validation rows
    save      the artifact, with the figures on its card
    rest      imports, configuration, the end of the process, and whatever is not above

Networks are tiny, so that what grows with the data is seen; the words are of a vocabulary of 97 tokens, so that a metric of all
tokens costs nothing. The size --paper of the corpus is not run: its lines, which say so, lie on the straight lines through the
two largest sizes that were, and a figure that did not grow from one to the other is left as it was.
"""

import argparse
import functools
import json
import os
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from held import MB, most_held
from kill import CHAINS, material
from load import on_processor, run, sentences, table, table_task, words

from kd_lightning.compare import markdown
from kd_lightning.run.report import console, show

PARTS = ("plan", "prepare", "train", "validate", "metrics", "predict", "save")
GENERAL = {
    "distilbert": ["method=distilbert", "stage=general"],
    "tinybert": ["method=tinybert", "stage=general", *CHAINS["tinybert"]],
}
TASK = {  # in an order in which each finds what it starts from
    "teacher": ["method=tinybert", "stage=teacher"],
    "intermediate": ["method=tinybert", "stage=intermediate", "start=teacher"],
    "prediction": ["method=tinybert", "stage=prediction", "start=teacher"],
    "distilbert": ["method=distilbert", "stage=task", "start=teacher", "method.task_soft=0.5", "method.task_gold=0.5"],
}
WIDTH = 150  # of a table
UNITS = {"corpus": "MB", "rows": "rows", "classes": "classes", "length": "tokens"}
Cell = dict[str, float | str]  # a line of a table, of numbers


class Parts:
    """Seconds of the processor of each part of a process, and its peak of memory; a part within another one counts alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.inside, self.since = ["rest"], 0.0
        self.peak, self.peak_in = 0.0, ""  # in MB; after which part it was there, but for a hundredth

    def charge(self) -> None:
        """What has passed since the last time goes to the part that runs."""
        now, part = sum(os.times()[:4]), self.inside[-1]  # with the processes that tokenise
        self.seconds[part] += now - self.since
        self.since = now
        if (held := most_held()) > 1.01 * self.peak:
            self.peak, self.peak_in = held, part

    def of(self, part: str, owner: Any, *names: str) -> None:
        """These functions of a class or a module are a part."""

        def timed(function: Callable) -> Callable:
            @functools.wraps(function)
            def call(*args, **kwargs):
                self.charge()
                self.inside.append(part)
                try:
                    return function(*args, **kwargs)
                finally:
                    self.charge()
                    self.inside.pop()

            return call

        for name in names:
            setattr(owner, name, timed(getattr(owner, name)))


def inside(overrides: Sequence[str], out: Path) -> None:
    """train.py in this process; what its parts took is written to out."""
    from lightning import Trainer
    from lightning.pytorch.loops import _EvaluationLoop

    import kd_lightning.train
    from kd_lightning.callback.metrics import TeacherAndStudent
    from kd_lightning.data.corpus import Corpus
    from kd_lightning.data.labelled import LabelledText
    from kd_lightning.run import chain, rehearsal, stage

    parts = Parts()
    parts.of("plan", chain, "plan")
    parts.of("plan", rehearsal, "rehearse")
    parts.of("prepare", Corpus, "__init__", "prepare_data", "setup", "train_dataloader", "val_dataloader")
    parts.of("prepare", LabelledText, "prepare_data", "setup", "train_dataloader", "val_dataloader")
    parts.of("train", Trainer, "fit")
    parts.of("validate", _EvaluationLoop, "run")
    parts.of("metrics", TeacherAndStudent, "on_validation_batch_end", "on_validation_epoch_end")
    parts.of("metrics", TeacherAndStudent, "on_test_batch_end", "on_test_epoch_end")
    parts.of("predict", stage, "predict")
    parts.of("save", stage, "save")
    sys.argv = ["train.py", *overrides]
    kd_lightning.train.main()
    parts.charge()
    found = {"peak MB": most_held(), "peak in": parts.peak_in} | parts.seconds
    out.write_text(json.dumps(found), encoding="utf-8")


def measure(axis: str, size: int, stages: dict[str, list[str]], folder: Path, common: list[str]) -> Iterator[Cell]:
    """The cells of one size, stage by stage."""
    for name, own in stages.items():
        out = folder / "parts.json"
        command = [str(Path(__file__).resolve()), "--inside", str(out), *own, *common, *on_processor(folder)]
        seconds, used, _ = run(f"{name}, {size:,} {UNITS[axis]}", command, folder / "log")
        found = json.loads(out.read_text(encoding="utf-8"))
        cell = {"stage": name, UNITS[axis]: size, "s": seconds, "CPU s": used}
        cell |= {"peak MB": found["peak MB"], "peak in": found["peak in"]} | {part: found.get(part, 0.0) for part in PARTS}
        cell["rest"] = used - sum(cell[part] for part in PARTS)
        print(f"{name}, {size:,} {UNITS[axis]}: {seconds:.1f} s, {found['peak MB']:,.0f} MB", file=sys.stderr, flush=True)
        yield cell


def corpus(file: Path, megabytes: int) -> Path:
    """Lines of 8 to 31 words, four to a document."""
    written = 0
    with file.open("w", encoding="ascii") as out:
        for number, text in enumerate(sentences(sys.maxsize)):
            line = text + ("\n\n" if number % 4 == 3 else "\n")
            written += len(line)
            out.write(line)
            if written >= megabytes * MB:
                return file
    raise ValueError(f"{megabytes} MB: too few sentences.")


def cells(axis: str, size: int, classes: Sequence[int], steps: int) -> list[Cell]:
    """In a folder of their own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        teacher, *_ = material(folder, positions=max(128, size if axis == "length" else 0))
        common = [teacher, f"trainer.max_steps={steps}"]
        if axis == "corpus":
            file = corpus(folder / "text.txt", size)
            return list(measure(axis, size, GENERAL, folder, [*common, f"corpus=[{file}]"]))
        chance = random.Random(0)
        rows = {"rows": size, "classes": max(10_000, 5 * max(classes)), "length": 2000}[axis]
        texts = (words(chance, size) for _ in range(rows)) if axis == "length" else sentences(rows)
        file = table(folder / "table.csv", texts, size if axis == "classes" else 2)
        common += ["corpus=[]", *table_task(file), f"task.max_length={size if axis == 'length' else 64}"]
        return list(measure(axis, size, TASK, folder, common))


def on_paper(found: Sequence[Cell], unit: str, size: int) -> list[Cell]:
    """Where each stage lies at another size, on the straight line through its two largest."""
    lines = []
    for stage in dict.fromkeys(cell["stage"] for cell in found):
        mine = sorted((cell for cell in found if cell["stage"] == stage), key=lambda cell: cell[unit])[-2:]
        if len(mine) < 2:
            continue
        low, high = mine
        share = (size - high[unit]) / (high[unit] - low[unit])
        numbers = [name for name, value in high.items() if not isinstance(value, str)]
        line = {name: high[name] + share * max(0.0, high[name] - low[name]) for name in numbers}
        lines.append({name: line.get(name, "") for name in high} | {"stage": f"{stage}, on paper"})
    return lines


def shown(cell: Cell, unit: str) -> dict[str, str]:
    whole = {unit, "peak MB"}
    return {
        name: value if isinstance(value, str) else f"{value:,.0f}" if name in whole else f"{value:,.1f}"
        for name, value in cell.items()
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axis", nargs="*", default=list(UNITS), help=f"{', '.join(UNITS)} (default: all)")
    parser.add_argument("--mb", nargs="+", type=int, default=[1, 10, 100], help="of corpus (default 1 10 100)")
    parser.add_argument("--rows", nargs="+", type=int, default=[1000, 10_000, 100_000, MB], help="(default 1000 to 1000000)")
    parser.add_argument("--classes", nargs="+", type=int, default=[2, 100, 10_000], help="(default 2 100 10000)")
    parser.add_argument("--length", nargs="+", type=int, default=[64, 128, 256, 512], help="(default 64 128 256 512)")
    parser.add_argument("--paper", type=int, default=1000, metavar="MB", help="of corpus, not run (default 1000)")
    parser.add_argument("--steps", type=int, default=50, help="updates of each stage (default 50)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here too, as Markdown")
    given = parser.parse_args()
    if unknown := [axis for axis in given.axis if axis not in UNITS]:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(UNITS)}.")
    return given


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[3:], Path(sys.argv[2]))
        return
    given = arguments()
    sizes = {"corpus": given.mb, "rows": given.rows, "classes": given.classes, "length": given.length}
    caption, tables = f"{given.steps} updates a stage; parts in seconds of the processor", []
    console.width = max(console.width, WIDTH)
    for axis in given.axis:
        found = [cell for size in sizes[axis] for cell in cells(axis, size, given.classes, given.steps)]
        if axis == "corpus" and given.paper > max(given.mb):
            found += on_paper(found, UNITS[axis], given.paper)
        tables.append([shown(cell, UNITS[axis]) for cell in found])
        show(tables[-1], caption)
    if given.markdown:
        given.markdown.write_text(f"{caption}.\n\n" + "\n".join(map(markdown, tables)), encoding="utf-8")


if __name__ == "__main__":
    main()
