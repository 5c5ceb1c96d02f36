"""One stage: build, fit, measure, export."""

import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from datasets import disable_progress_bars
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from kd_lightning import manifest
from kd_lightning.distiller import check_precision
from kd_lightning.encoder import Encoder
from kd_lightning.keep import lock, writing
from kd_lightning.run import validation
from kd_lightning.run.artifact import measure, predict, record, save
from kd_lightning.run.chain import Plan, finished
from kd_lightning.run.checkpoint import Last, Whole, newest, read
from kd_lightning.run.dashboard import show
from kd_lightning.run.interrupt import REQUEUED, others
from kd_lightning.run.leftover import BEGUN, remains, tidy
from kd_lightning.run.tracking import tracked
from kd_lightning.run.typed import torchrun
from kd_lightning.teacher.answers import Answers
from kd_lightning.teacher.stored import StoredTeacher
from kd_lightning.trim import reading
from kd_lightning.views import Needs

# What tells one launch of several processes from another: torchrun's and SLURM's.
LAUNCH = ("TORCHELASTIC_RUN_ID", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_STEP_ID", REQUEUED)
# What Lightning says about things that are meant: a teacher in eval mode, tasks of few batches, a folder to resume in; and
# a deprecation inside Lightning itself.
MEANT = (
    r".*in eval mode at the start of training",
    r".*smaller than the logging interval",
    r"Checkpoint directory .* exists and is not empty",
    r"Experiment logs directory .* exists and is not empty",
    r".*does not have many workers",
    r"You're resuming from a checkpoint that ended before the epoch ended and your dataloader is not resumable",
    r".*LeafSpec.* is deprecated",
    r".*functional.all_gather is deprecated",
    r"Metric `SpearmanCorrcoef` will save all targets and predictions",
)


def quiet() -> None:
    """Nothing is said of what is meant."""
    for message in MEANT:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    if not sys.stderr.isatty():
        disable_progress_bars()  # those of datasets, which say a thing again and again; see callback/bar.py for the training's


def precision(given: str | int) -> str | int:
    """Of a trainer; raises ValueError for one that loses small updates. auto: bf16-mixed where matrix products in bfloat16 are
    native (AVX512-BF16 or AMX on a CPU, Ampere or later on CUDA), else 32-true."""
    if given != "auto":
        check_precision(given)
        return given
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        can = torch.cpu.get_capabilities()
        native = can.get("avx512_bf16") or can.get("amx_bf16")
    return "bf16-mixed" if native else "32-true"


def build(cfg: DictConfig) -> tuple[L.LightningModule, L.LightningDataModule]:
    """The networks, the distiller and the data of a stage; whatever does not fit together raises here."""
    teacher = instantiate(cfg.networks.teacher)
    student = instantiate(cfg.networks.student, _convert_="all")
    if not isinstance(student, torch.nn.Module):
        student = student(teacher)
    answers = cfg.networks.get("answers")
    if isinstance(teacher, Encoder) and answers is None:  # one whose answers are kept reads its own tokens
        teacher = reading(teacher, student.tokenizer)
    if teacher is not None and teacher.spec.vocabulary_id == student.spec.vocabulary_id:  # they read the same tokens
        student.tokenizer.model_max_length = min(network.tokenizer.model_max_length for network in (student, teacher))
    if answers is not None or cfg.stored:
        teacher = StoredTeacher(teacher) if answers is None else instantiate(answers)(teacher)
    if teacher is not None and precision(cfg.trainer.precision) in ("bf16-mixed", "bf16"):
        teacher.to(torch.bfloat16)
    optim = instantiate(cfg.optim, _convert_="all")
    engine = {key: optim.pop(key) for key in ("weight_decay", "schedule", "warmup")}
    optimizer = partial(optim.pop("optimizer"), **optim)  # what is left are its own settings
    distiller = instantiate(cfg.distiller, student=student, teacher=teacher, optimizer=optimizer, **engine, _convert_="all")
    data = instantiate(cfg.data, tokenizer=student.tokenizer, _convert_="all")
    if isinstance(teacher, Answers):
        data.prepare_data()
        teacher.number(data.numbers(), {split: validation.texts(rows) for split, rows in data.rows.items()})
    return distiller, data


def make(cfg: DictConfig, command: str, chain: Plan | None = None) -> None:
    """Run a stage, unless another process has made its artifact meanwhile. Where several processes train together the first
    one decides, and the others do as it does. chain: which it is a part of; None: it stands alone."""
    for folder in cfg.starts_from.values():
        manifest.check(Path(folder))
    launch = " ".join(os.environ.get(name, "") for name in LAUNCH)
    begun = Path(f"{cfg.artifact}{BEGUN}")
    if rank_zero_only.rank:
        while not (begun.is_file() and begun.read_text(encoding="utf-8") == launch):
            if finished(cfg):
                return
            time.sleep(0.2)
        run(cfg, command, chain)
        return
    artifact = Path(cfg.artifact)
    if finished(cfg) and not (remains(artifact, done=True) and os.access(artifact.parent, os.W_OK)):
        return
    new = [folder for folder in artifact.parents if not folder.exists()]
    try:
        with lock(artifact):
            tidy(artifact, done=finished(cfg))
            if not finished(cfg):
                try:
                    run(cfg, command, chain, launch)
                finally:
                    begun.unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # where nothing came of it
            for folder in new:
                folder.rmdir()


def run(cfg: DictConfig, command: str, chain: Plan | None = None, launch: str = "") -> None:
    """Train one stage and leave its artifact.

    Checkpoints lie in `<artifact>.run` while it trains, and ckpt_path=last goes on from there; the logger's files stay.
    launch: what the other processes that train with this one wait for.
    """
    work = Path(f"{cfg.artifact}.run")
    resume = _checkpoint("last" if cfg.ckpt_path is None and int(os.environ.get(REQUEUED, 0)) else cfg.ckpt_path, work)
    quiet()
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # on a GPU too products are summed in float32
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    distiller, data = build(cfg)
    if rank_zero_only.rank:
        torch.manual_seed(cfg.seed + rank_zero_only.rank)  # a dropout of its own; the student is the first process's
    record(cfg, command, distiller.student.spec.labels)  # what cannot be said of the artifact is refused now
    data.prepare_data()
    data.setup("fit")  # here, so that what is wrong with the data is said before anything is written
    if rank_zero_only.rank == 0:
        if resume is None:
            shutil.rmtree(work, ignore_errors=True)
        with writing(work):
            work.mkdir(parents=True, exist_ok=True)
            Path(f"{cfg.artifact}{BEGUN}").write_text(launch, encoding="utf-8")
    monitor = cfg.metric if cfg.keep == "best" else None
    best = ModelCheckpoint(work / "checkpoints", "best", monitor, mode="max", enable_version_counter=False)
    kept = [*([best] if monitor else []), Last(work / "checkpoints", cfg.checkpoint_minutes)]
    with tracked(cfg, command, chain, work) as loggers, others():
        trainer = instantiate(
            cfg.trainer,
            precision=precision(cfg.trainer.precision),
            logger=loggers,
            callbacks=[*_callbacks(instantiate(cfg.callback, _convert_="all")), *kept],
            plugins=[Whole()],
            default_root_dir=str(work),
        )
        if trainer.world_size > 1 and not trainer.strategy.cluster_environment.creates_processes_externally:
            raise ValueError(
                f"{trainer.world_size} processes: start them with {' '.join(torchrun(trainer.world_size))} ..., "
                "so that each goes through the whole chain."
            )
        if isinstance(distiller.teacher, StoredTeacher):
            store(cfg, distiller, data, trainer)
        trainer.fit(distiller, data, ckpt_path=resume, weights_only=True)
        if monitor and Path(best.best_model_path).is_file():
            chosen = read(Path(best.best_model_path))
            weights = chosen["state_dict"].items()
            ours = {name.removeprefix("student."): w for name, w in weights if name.startswith("student.")}
            distiller.student.load_state_dict(ours)
            if chosen["global_step"] != trainer.global_step:
                distiller.changed()
        metrics = measure(trainer, distiller, data)
        predictions = predict(trainer, distiller, data)
        if trainer.is_global_zero:
            save(cfg, command, metrics, predictions, distiller)
            tidy(Path(cfg.artifact), done=True)
            texts = [] if predictions is None else validation.texts(data.rows["validation"])
            show(loggers, cfg, metrics, predictions, texts, distiller.student.spec.labels)
        trainer.strategy.barrier()


def _callbacks(made: Mapping[str, Any]) -> Iterator[L.Callback]:
    """Those of a stage, also of groups of them; an entry that is null is left out."""
    for callback in made.values():
        if isinstance(callback, Mapping):
            yield from _callbacks(callback)
        elif callback is not None:
            yield callback


def store(cfg: DictConfig, distiller: L.LightningModule, data: L.LightningDataModule, trainer: L.Trainer) -> None:
    """Let the teacher answer for every row, in its own tokens. Of several processes that find no answers one asks it."""
    stored = distiller.teacher
    stored.teacher.to(trainer.strategy.root_device)
    stored.store(distiller.teacher_needs | Needs(logits=True), _as_taught(distiller, data), cfg.cache)


def room(distiller: L.LightningModule, data: L.LightningDataModule) -> float:
    """Bytes that `store` is going to write for each token, by the first rows of the data."""
    batches, _ = _as_taught(distiller, data).every_row()
    return distiller.teacher.bytes_a_token(distiller.teacher_needs | Needs(logits=True), next(iter(batches)))


def _as_taught(distiller: L.LightningModule, data: L.LightningDataModule) -> L.LightningDataModule:
    """The data in the tokens of the teacher that is to be stored."""
    teacher = distiller.teacher.teacher
    return data if teacher.spec.vocabulary_id == distiller.student.spec.vocabulary_id else data.read_with(teacher.tokenizer)


def _checkpoint(choice: str | None, work: Path) -> str | None:
    """The checkpoint to go on from: "last" is this run's own, if it was interrupted, and nothing otherwise."""
    if choice is None:
        return None
    if choice == "last":
        found = newest(work)
        return None if found is None else str(found)
    if Path(choice).is_file():
        return choice
    raise ValueError(f"ckpt_path={choice}: no such file. Give a checkpoint of this very stage, or last.")
