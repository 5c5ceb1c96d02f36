"""What much data costs: `python benchmarks/load.py [row ...] [--rows 10000 100000 1000000] [--markdown FILE]`.

Each row of the table is a process of its own; its seconds, by the clock and of the processor, and its peak of memory (the
largest resident set) are those of the whole process, imports included, which the first row has alone. Rows a second are of
the processor: a machine with other work shows no others. The networks are tiny, so that the data are what is measured.

    imports  nothing but them
    reader   a table with two classes, read, split, tokenised and its first 100 batches, by the data modules
    predict  the same table through `python -m kd_lightning.predict`
    line     one line of 50 MB through predict and as a corpus: of words, and of letters without a blank
    cell     1,000 rows, one of them with a cell of 5 MB, through the reader and predict
    long     5,000 rows of 50,000 characters through the reader and predict
    classes  10,000 classes: `train.py`, a teacher and its student a few steps each, and all metrics at the end
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from held import MB
from kill import CHAINS, ROOT, material

from kd_lightning.compare import markdown
from kd_lightning.run.report import show

KINDS = ("imports", "reader", "predict", "line", "cell", "long", "classes")
READER = """
import sys
from transformers import AutoTokenizer
from kd_lightning.data.labelled import LabelledText
from kd_lightning.data.table import Table
file, teacher = sys.argv[1:]
how = {"validation_share": 0.1, "split_seed": 0, "on_bad_row": "error", "on_empty": "error", "format": None}
reader = Table(name="load", files={"train": file}, hub=None, text=["text"], label="label", labels=["0", "1"], **how)
how = {"unlabelled": False, "augment": None, "label_budget": None, "label_seed": 0, "workers": 0, "seed": 0}
data = LabelledText(tokenizer=AutoTokenizer.from_pretrained(teacher), reader=reader, max_length=64, batch_size=32, **how)
data.setup("fit")
for _, batch in zip(range(100), data.train_dataloader()):
    pass
print(sum(map(len, data.splits.values())))
"""
CORPUS = """
import sys
from transformers import AutoTokenizer
from kd_lightning.data.corpus import Corpus
file, teacher, cache = sys.argv[1:]
how = {"mask_share": 0.15, "mask_smoothing": 0.7, "held_out": 0.02, "max_sequences": None, "workers": 0, "seed": 0}
tokenizer = AutoTokenizer.from_pretrained(teacher)
data = Corpus(tokenizer=tokenizer, source=[file], cache=cache, max_length=64, join_lines=True, batch_size=32, **how)
data.prepare_data()
data.setup("fit")
for _, batch in zip(range(100), data.train_dataloader()):
    pass
print(len(data.lengths), "sequences")
"""
IMPORTS = "import kd_lightning.data.labelled, kd_lightning.data.table, kd_lightning.predict"


def words(chance: random.Random, count: int) -> str:
    return " ".join(f"w{chance.randrange(5, 90)}" for _ in range(count))


def table(file: Path, texts: Iterator[str], classes: int = 2) -> Path:
    with file.open("w", encoding="utf-8") as out:
        out.write("text,label\n")
        out.writelines(f"{text},{number % classes}\n" for number, text in enumerate(texts))
    return file


def sentences(count: int) -> Iterator[str]:
    chance = random.Random(0)
    return (words(chance, chance.randrange(8, 32)) for _ in range(count))


def run(name: str, command: list[str], log: Path) -> tuple[float, float, float]:
    """Seconds by the clock and of the processor, and the peak of memory in MB, of a process in the project's folder."""
    begun = time.monotonic()
    with log.open("w+", encoding="utf-8") as output:
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=output, stderr=output, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{name} ended with {process.returncode}:\n{log.read_text(encoding='utf-8')[-3000:]}")
    return time.monotonic() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / MB


def table_task(file: Path) -> list[str]:
    """What train.py is told of a file that `table` has written."""
    return ["task=table", f"task.files.train={file}", "task.text=[text]", "task.label=label"]


def on_processor(folder: Path) -> list[str]:
    """What train.py is told of where it leaves things and on what it trains."""
    folders = [f"{name}={folder}/{name}" for name in ("artifacts", "cache", "hydra.run.dir")]
    return ["data.batch_size=32", "trainer.accelerator=cpu", *folders]


class Load:
    """The rows of the table, measured in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.report = folder, []
        *self.places, _, _ = material(folder)
        self.teacher = folder / "teacher"

    def row(self, name: str, rows: int, command: list[str]) -> None:
        seconds, used, peak = run(name, command, self.folder / "log")
        speed = f"{rows / used:,.0f}" if rows > 1 else ""
        line = {"what": name, "rows": f"{rows:,}", "seconds": f"{seconds:.1f}", "CPU s": f"{used:.1f}"}
        self.report.append(line | {"rows/CPU s": speed, "peak MB": f"{peak:,.0f}"})
        print(f"{name}: {rows:,} rows, {seconds:.1f} s, {used:.1f} CPU s, {peak:,.0f} MB", file=sys.stderr, flush=True)

    def reader(self, name: str, rows: int, file: Path) -> None:
        self.row(f"reader, {name}", rows, ["-c", READER, str(file), str(self.teacher)])

    def predict(self, name: str, rows: int, file: Path) -> None:
        given = ["--text", "text"] if file.suffix == ".csv" else []
        command = ["-m", "kd_lightning.predict", str(self.student()), str(file), *given, "--out", f"{self.folder}/out.tsv"]
        self.row(f"predict, {name}", rows, command)
        with (self.folder / "out.tsv").open(encoding="utf-8") as answers:
            if (count := sum(1 for _ in answers) - 1) != rows:
                sys.exit(f"predict, {name}: {count} answers for {rows} rows.")

    def train(self, file: Path, *more: str) -> list[str]:
        own = ["corpus=[]", *table_task(file), *self.places, "task.max_length=64", "trainer.max_steps=4"]
        return ["train.py", *own, *on_processor(self.folder), *more]

    def student(self) -> Path:
        """An artifact of two classes, made once."""
        if not (found := list(self.folder.glob("artifacts/**/model.safetensors"))):
            file = table(self.folder / "few.csv", sentences(200))
            run("student", self.train(file, "method=finetune", "stage=teacher"), self.folder / "log")
            found = list(self.folder.glob("artifacts/**/model.safetensors"))
        return found[0].parent

    def measure(self, kind: str, sizes: list[int]) -> None:
        if kind == "imports":
            self.row("imports", 0, ["-c", IMPORTS])
        elif kind in ("reader", "predict"):
            for size in sizes:
                file = table(self.folder / "table.csv", sentences(size))
                getattr(self, kind)("two classes", size, file)
        elif kind == "line":
            chance = random.Random(0)
            for name, unit in (("of words", words(chance, 1000) + " "), ("without a blank", "w" + "xyz7" * 1000)):
                file = self.folder / "line.txt"
                file.write_text(unit * (50 * MB // len(unit)) + "\n", encoding="utf-8")
                self.predict(f"a line of 50 MB {name}", 1, file)
                if "words" in name:
                    more = [str(file), str(self.teacher), str(self.folder / "cache")]
                    self.row(f"corpus, a line of 50 MB {name}", 1, ["-c", CORPUS, *more])
        elif kind == "cell":
            chance = random.Random(0)
            large = words(chance, 5 * MB // 4)[: 5 * MB]
            file = table(self.folder / "cell.csv", (large if n == 500 else text for n, text in enumerate(sentences(1000))))
            self.reader("a cell of 5 MB", 1000, file)
            self.predict("a cell of 5 MB", 1000, file)
        elif kind == "long":
            chance = random.Random(0)
            large = words(chance, 50_000 // 4)
            file = table(self.folder / "long.csv", (f"{text} {large}" for text in sentences(5000)))
            self.reader("50,000 characters a row", 5000, file)
            self.predict("50,000 characters a row", 5000, file)
        else:
            file = table(self.folder / "classes.csv", sentences(50_000), classes=10_000)
            chain = ["method=tinybert", "stage=task", "start=teacher", *CHAINS["tinybert"]]
            self.row("train.py, 10,000 classes", 50_000, self.train(file, *chain))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="*", default=list(KINDS), help=f"{', '.join(KINDS)} (default: all)")
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 100_000, MB], help="of the tables")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here too, as Markdown")
    given = parser.parse_args()
    if unknown := [kind for kind in given.row if kind not in KINDS]:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(KINDS)}.")
    with tempfile.TemporaryDirectory() as folder:
        load = Load(Path(folder))
        for kind in given.row:
            load.measure(kind, given.rows)
    show(load.report, "CPU s: seconds of the processor")
    if given.markdown:
        given.markdown.write_text(markdown(load.report), encoding="utf-8")


if __name__ == "__main__":
    main()
