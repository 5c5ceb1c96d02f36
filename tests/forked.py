"""The command line in processes of its own, started fast: forked from one that has imported everything."""

import multiprocessing
import os
import runpy
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import datasets  # noqa: F401  here, and not in every child
import torch
import torchmetrics.classification  # noqa: F401
import transformers.models.bert.modeling_bert  # noqa: F401
import wandb  # noqa: F401
from lightning.pytorch.utilities import rank_zero_only

import kd_lightning.data.corpus
import kd_lightning.method.tinybert
import kd_lightning.run.report
import kd_lightning.run.stage
import kd_lightning.student.transplant  # noqa: F401

ROOT = Path(__file__).parents[1]


def nothing() -> None:
    """Before a command."""


class Started:
    """A process that runs `python <words>`: train.py and what is said to it, or -m, a module and what is said to that."""

    def __init__(
        self,
        words: list[str],
        log: Path,
        environment: Mapping[str, str] = MappingProxyType({}),
        before: Callable[[], None] = nothing,
        folder: Path = ROOT,
    ) -> None:
        self.log = log
        arguments = (words, log, environment, before, folder)
        self.process = multiprocessing.get_context("fork").Process(target=_main, args=arguments)
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
        return self.stdout + self.stderr

    @property
    def stdout(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def stderr(self) -> str:
        errors = _errors(self.log)
        return errors.read_text() if errors.exists() else ""

    @property
    def sentence(self) -> str:
        """What train.py ended with."""
        assert "Traceback" not in self.said, self.said
        (line,) = (line for line in self.said.splitlines() if line.startswith("train.py: "))
        return line


def _errors(log: Path) -> Path:
    return log.with_name(f"{log.name}.errors")


def _main(words: list[str], log: Path, environment: Mapping[str, str], before: Callable[[], None], folder: Path) -> None:
    torch.set_num_threads(1)  # makes PyTorch's pool anew: several threads that find it gone at once would fail
    with log.open("w") as output, _errors(log).open("w") as errors:
        os.dup2(output.fileno(), 1)
        os.dup2(errors.fileno(), 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.chdir(folder)
    os.environ.update(environment)
    rank_zero_only.rank = int(os.environ.get("RANK", 0))  # which Lightning has read when it was imported
    warnings.resetwarnings()
    before()
    module = words[0] == "-m"
    sys.argv = words[module:]
    if module:
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
