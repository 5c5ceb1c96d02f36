"""SIGTERM, Ctrl-C and SLURM's SIGUSR1: when a run stops, what it says and with which status it ends.

While a stage trains, the signal waits for the end of the batch (`checkpoint.Last` then writes a checkpoint and stops); at any
other time there is nothing to save, and the run stops at once. The status is the shells': 128 + the number of the signal.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kd_lightning.run.typed import program, torchrun

LOST = re.compile("gloo|nccl|connection (closed|reset|refused)|socket|broken pipe", re.I)  # what is said of a lost process
SLURM = "SLURM_JOB_ID"  # in the environment of a job
REQUEUED = "SLURM_RESTART_COUNT"  # in that of one which was queued again
AGAIN = 1.0  # seconds; launchers send a signal twice in less, people do not


class Interrupted(SystemExit):
    """A signal has stopped the run. Nothing that catches errors catches this."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class Signals:
    """The handler of all of them. training: whether the signal waits. asked: the number of the one that came, 0 for none."""

    def __init__(self) -> None:
        self.training, self.asked, self.since, self.stopping = False, 0, 0.0, False

    def install(self) -> None:
        """Also again, where a library has put its own handler there."""
        self.process = os.getpid()
        for number in (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if SLURM in os.environ else [])):
            signal.signal(number, self)

    def __call__(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self.process:  # of a worker that was forked: this process ends it, and may need it until then
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            return
        if self.stopping:
            return
        impatient = number == self.asked == signal.SIGINT and time.monotonic() - self.since > AGAIN
        if not self.training or impatient:
            self.stopping = True
            raise Interrupted(number)
        if not self.asked:
            self.asked, self.since = number, time.monotonic()
            if number == signal.SIGINT:
                os.write(2, b"\nCtrl-C: this batch is finished and a checkpoint written; once more stops at once.\n")

    def stop(self, number: int) -> None:
        self.stopping = True
        raise Interrupted(number)


SIGNALS = Signals()  # a process has one


def say(stopped: Interrupted) -> None:
    """To standard error: what stopped the run and which command goes on. A job of SLURM's is queued again.

    Where several processes train together, the first one does it.
    """
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0":
        return
    why = f"{program()[-1]}: stopped by {signal.Signals(stopped.number).name}."
    if stopped.number == signal.SIGUSR1:
        print(f"{why} {_requeue()}", file=sys.stderr)
    else:
        print(f"{why} This goes on where it stopped: {_command()}", file=sys.stderr)


def launched() -> int:
    """How many processes torchrun or SLURM has started together."""
    return max(int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "SLURM_NTASKS"))


@contextmanager
def others() -> Iterator[None]:
    """Says in a sentence, as a ValueError, that another of the processes that train together is gone."""
    try:
        yield
    except RuntimeError as error:
        if launched() == 1 or not LOST.search(str(error)):
            raise
        raise ValueError(
            "another process of this run has ended, and said why if it could. When that is mended, this goes on where it "
            f"stopped: {_command()}"
        ) from error


def _command() -> str:
    given = [word for word in sys.argv[1:] if not word.startswith("ckpt_path=")]
    began = torchrun(os.environ["LOCAL_WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else program()
    if (nodes := int(os.environ.get("GROUP_WORLD_SIZE", 1))) > 1 and began[0] == "torchrun":  # on each of them
        began[2:2] = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={os.environ['MASTER_ADDR']}"]
    return shlex.join([*began, *given, "ckpt_path=last"])


def _requeue() -> str:
    job = os.environ[SLURM]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], check=False).returncode == 0
    except OSError:  # scontrol is not there
        done = False
    if done:
        return f"Job {job} is queued again and goes on where it stopped."
    return f"Job {job} could not be queued again with scontrol. This goes on where it stopped: {_command()}"
