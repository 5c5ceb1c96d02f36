"""Checkpoints that outlive a full disk and a killed process: `last.ckpt`, the one before it, and which of them is whole."""

import os
import pickle
import struct
import sys
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from kd_lightning.keep import writing
from kd_lightning.run.interrupt import SIGNALS

UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, OverflowError, KeyError, struct.error, zipfile.BadZipFile)
TIME = 1  # why a checkpoint is wanted: 0 is not at all, and larger ones are signals (1, SIGHUP, is never asked about)


def whole(path: Path) -> bool:
    """Whether a checkpoint is as it was written: each of its parts against the part's own checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except UNREADABLE:
        return False


def newest(work: Path) -> Path | None:
    """The newest checkpoint that can be read in the folder of a run, SLURM's included; None where there is none at all.

    Raises ValueError where there are only damaged ones.
    """
    for file in work.glob("hpc_ckpt_*.ckpt"):  # out of the way: Lightning would measure with one, whatever was trained since
        (work / "checkpoints").mkdir(exist_ok=True)
        os.replace(file, work / "checkpoints" / file.name)
    kept = [file for file in work.glob("checkpoints/*.ckpt") if file.name != "best.ckpt"]
    kept.sort(key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for number, file in enumerate(kept):
        with suppress(ValueError):
            read(file)
            if number:
                print(f"{kept[0]} is damaged; this goes on from {file.name}, which is older.", flush=True)
            return file
    if kept:
        raise ValueError(f"{kept[0]} is damaged, and no older one is there. Start this stage anew: leave ckpt_path=last away.")
    return None


class Whole(TorchCheckpointIO):
    """Writes a checkpoint beside its place, reads it back and only then moves it there: what was there stays until then."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None) -> None:
        path, unfinished = Path(path), Path(f"{path}.unfinished")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with unfinished.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                if not whole(unfinished):
                    raise ValueError(f"{path}: what was written is not what is read back. Is the disk in order?")
                os.replace(unfinished, path)
            finally:
                unfinished.unlink(missing_ok=True)

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return read(Path(path))


def read(path: Path) -> dict[str, Any]:
    """A checkpoint, without pickle. Raises ValueError for whatever is none."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True) if whole(path) else None
    except (pickle.UnpicklingError, *UNREADABLE):
        found = None
    if not isinstance(found, Mapping) or "state_dict" not in found:
        raise ValueError(f"{path} cannot be read: it is damaged, or no checkpoint.")
    return found


class Last(Checkpoint):
    """Keeps `last.ckpt` in the folder, and the one before it as `former.ckpt`: every so many minutes, after each validation,
    and when a signal asks to stop, which is then done.

    Only where an update is complete and no validation is due: Lightning keeps no gradients, and a run that goes on from
    before a validation does without it.
    """

    def __init__(self, folder: Path, minutes: float) -> None:
        self.folder, self.seconds, self.since = folder, 60 * minutes, 0.0

    def on_train_start(self, *_: Any) -> None:
        SIGNALS.install()  # Lightning's own would end the process with status 0
        SIGNALS.training, self.since = True, time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int) -> None:
        wanted = self._wanted(trainer)
        updated = (index + 1) % trainer.accumulate_grad_batches == 0
        due = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or (index + 1) % trainer.val_check_batch == 0
        if wanted and updated and not due:
            self._save(trainer, wanted)

    def on_validation_start(self, *_: Any) -> None:
        SIGNALS.install()

    on_test_start = on_predict_start = on_validation_start

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer, self._wanted(trainer))

    def on_train_end(self, *_: Any) -> None:
        SIGNALS.training = False
        if SIGNALS.asked:
            SIGNALS.stop(SIGNALS.asked)

    def on_exception(self, *_: Any) -> None:
        SIGNALS.training = False
        print(file=sys.stderr)  # what is said next gets a line of its own, after the progress bar's

    def _wanted(self, trainer: L.Trainer) -> int:
        """Why a checkpoint is wanted, in any of the processes: they all write and stop at the same batch."""
        wanted = SIGNALS.asked or (TIME if time.monotonic() - self.since >= self.seconds else 0)
        if trainer.world_size > 1:
            wanted = int(trainer.strategy.reduce(torch.tensor(wanted, device=trainer.strategy.root_device), reduce_op="max"))
        return wanted

    def _save(self, trainer: L.Trainer, wanted: int) -> None:
        last, new = self.folder / "last.ckpt", self.folder / "next.ckpt"
        trainer.save_checkpoint(new, weights_only=False)
        if trainer.is_global_zero:
            with writing(last):
                if last.exists():
                    os.replace(last, self.folder / "former.ckpt")
                os.replace(new, last)
        self.since = time.monotonic()
        if wanted > TIME:
            SIGNALS.stop(wanted)
