"""The command line in processes of its own, started fast: forked from one that has imported everything."""

import multiprocessing
import os
import random
import runpy
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets  # noqa: F401  here, and not in every child
import pytest
import torchmetrics.classification  # noqa: F401
import transformers.models.bert.modeling_bert  # noqa: F401
import wandb  # noqa: F401
from lightning.pytorch.utilities import rank_zero_only

import kd_lightning.data.corpus
import kd_lightning.method.tinybert
import kd_lightning.run.report
import kd_lightning.run.stage
import kd_lightning.student.transplant  # noqa: F401

ROOT = Path(__file__).parents[2]


class Started:
    """A process that runs `python train.py ...`."""

    def __init__(self, words: list[str], log: Path, environment: dict[str, str], before: Callable[[], None]) -> None:
        self.log = log
        self.process = multiprocessing.get_context("fork").Process(target=_main, args=(words, log, environment, before))
        self.process.start()

    def wait(self, seconds: float = 60) -> "Started":
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"it still runs: {self.said}"
        return self

    def until(self, pattern: str, seconds: float = 30) -> "Started":
        """Wait for a file in the test's folder."""
        end = time.monotonic() + seconds
        while not any(self.log.parent.glob(pattern)):
            assert self.process.is_alive(), self.said
            assert time.monotonic() < end, self.said
            time.sleep(0.002)
        return self

    def send(self, number: int) -> "Started":
        os.kill(self.process.pid, number)
        return self

    def __repr__(self) -> str:
        return self.said[-3000:]

    @property
    def status(self) -> int:
        """As a shell shows it."""
        code = self.process.exitcode
        return code if code >= 0 else 128 - code

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def sentence(self) -> str:
        """What train.py ended with."""
        assert "Traceback" not in self.said, self.said
        (line,) = (line for line in self.said.splitlines() if line.startswith("train.py: "))
        return line


def _main(words: list[str], log: Path, environment: dict[str, str], before: Callable[[], None]) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.chdir(ROOT)
    os.environ.update(environment)
    sys.argv = ["train.py", *words]
    rank_zero_only.rank = int(os.environ.get("RANK", 0))  # which Lightning has read when it was imported
    warnings.resetwarnings()
    before()
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


@pytest.fixture(scope="module")
def material(tmp_path_factory, make_encoder) -> Path:
    """A folder with a teacher, a corpus and a task; the words of a class tell it."""
    folder = tmp_path_factory.mktemp("material")
    teacher = make_encoder(dropout=0.1, positions=128)
    teacher.tokenizer.model_max_length = 128
    teacher.model.save_pretrained(folder / "teacher")
    teacher.tokenizer.save_pretrained(folder / "teacher")
    chance = random.Random(0)
    lines = [" ".join(f"w{chance.randrange(5, 90)}" for _ in range(chance.randrange(4, 14))) for _ in range(180)]
    (folder / "corpus.txt").write_text("\n\n".join(lines) + "\n")
    (folder / "SST-2").mkdir()
    for split, size in (("train", 40), ("dev", 20)):
        rows = [f"w{chance.randrange(10, 40) + 40 * (n % 2)} w7 w8\t{n % 2}" for n in range(size)]
        (folder / "SST-2" / f"{split}.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
    return folder


@pytest.fixture
def start(material, tmp_path) -> Iterator[Callable[..., Started]]:
    """Start `train.py`: a TinyBERT of 16 wide. Everything it leaves lies in the test's folder, as `a`, `c` and `r`."""
    begun: list[Started] = []

    def make(*words: str, environment: dict[str, str] | None = None, before: Callable[[], None] = lambda: None) -> Started:
        given = {
            "method": "tinybert",
            "stage": "general",
            "task": "sst2",
            "task.max_length": "16",
            "student.hidden_size": "16",
            "student.intermediate_size": "32",
            "trainer.accelerator": "cpu",
            "data.batch_size": "4",
            "teacher.pretrained": f"{material}/teacher",
            "corpus": f"[{material}/corpus.txt]",
            "glue": f"{material}",
            "artifacts": f"{tmp_path}/a",
            "cache": f"{tmp_path}/c",
            "hydra.run.dir": f"{tmp_path}/r",
            "hydra.sweep.dir": f"{tmp_path}/s",
        }
        said = [word.split("=")[0].lstrip("+~") for word in words]
        usual = [f"{name}={value}" for name, value in given.items() if name not in said]
        begun.append(Started([*words, *usual], tmp_path / f"log{len(begun)}", environment or {}, before))
        return begun[-1]

    yield make
    for started in begun:
        started.process.kill()
        started.process.join()
