"""What a run leaves: a Hugging Face folder that plain transformers loads, with the run's metrics and settings beside it."""

import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pyarrow as pa
import torch
from omegaconf import DictConfig, OmegaConf
from pyarrow import parquet
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, PreTrainedModel

from kd_lightning import manifest
from kd_lightning.keep import replace
from kd_lightning.run import card
from kd_lightning.run.answered import files
from kd_lightning.run.portable import add_code
from kd_lightning.run.record import METRICS, Record, Task
from kd_lightning.run.results import collect, column
from kd_lightning.run.shown import printable
from kd_lightning.run.timing import times
from kd_lightning.together import summed


def parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())


# What a model raises that cannot be run or counted as it is here.
UNMEASURABLE = (RuntimeError, AttributeError, TypeError, ValueError, LookupError, AssertionError)


def architecture(model: PreTrainedModel) -> str:
    """The model's kind and settings but for its labels' names: models with the same are equally large and fast."""
    settings = model.config.to_dict()
    settings |= {"id2label": model.config.num_labels, "label2id": None, "problem_type": None, "_name_or_path": None}
    return f"{type(model).__name__} {json.dumps(settings, sort_keys=True, default=str)}"


@torch.inference_mode()
def latency(models: Sequence[PreTrainedModel], length: int) -> list[float | None]:
    """Milliseconds for one sequence of this length: the fastest tenth (batch 1, float32). Models of one architecture are
    measured once. None, and a sentence is printed, for one that cannot be measured."""
    kinds = [architecture(model) for model in models]
    calls = {kind: partial(model, **sequence(model, length)) for kind, model in zip(kinds, models, strict=True)}
    names = {kind: type(model).__name__ for kind, model in zip(kinds, models, strict=True)}
    calls = {kind: call for kind, call in calls.items() if asked(names[kind], "latency", lambda call=call: bool(call()))}
    measured = dict(zip(calls, times(list(calls.values())), strict=True))
    return [measured[kind].low if kind in measured else None for kind in kinds]


@torch.inference_mode()
def megaflops(model: PreTrainedModel, length: int) -> float | None:
    """Millions of floating-point operations for one sequence of this length, a multiply-add is two: all matrix products and
    convolutions, attention and LSTMs taken apart into theirs. None, and a sentence is printed, where they cannot be counted.
    """
    learned = [p for p in model.parameters() if p.requires_grad]

    def count() -> float:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TF32 acceleration")  # torch's, where there is none; nothing here uses it
            with (
                torch.backends.mkldnn.flags(enabled=False),
                sdpa_kernel(SDPBackend.MATH),
                FlopCounterMode(display=False) as counter,
            ):
                model(**sequence(model, length))
        return counter.get_total_flops() / 1e6

    try:
        for parameter in learned:  # the counter looks for the graph of one that a module takes as its input (DeBERTa)
            parameter.requires_grad_(False)
        return asked(type(model).__name__, "number of operations", count)
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


def sequence(model: PreTrainedModel, length: int, batch: int = 1) -> dict[str, Tensor]:
    """Inputs [B, S] without padding."""
    ids = torch.full((batch, length), min(5, model.config.vocab_size - 1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def asked(name: str, what: str, question: Callable[[], Any]) -> Any:
    """The answer; None, and a sentence is printed, where a model of this name cannot give it."""
    try:
        return question()
    except UNMEASURABLE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(f"{name}: its {what} cannot be measured and is left out ({reason}).")
        return None


def load(folder: str | Path) -> PreTrainedModel:
    """The model in an artifact, or of a hub name, with the head it was saved with, in float32."""
    names = AutoConfig.from_pretrained(folder, trust_remote_code=False).architectures or ["BertModel"]
    heads = {"SequenceClassification": AutoModelForSequenceClassification, "MaskedLM": AutoModelForMaskedLM}
    auto_class = next((found for head, found in heads.items() if names[0].endswith(head)), AutoModel)
    return auto_class.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()


def in_row_order(batches: Iterable[Tensor], plan: Iterable[Iterable[int]], rows: int) -> Tensor:
    """[rows, ...] of all batches, by the number of the row; one batch is held at a time. plan: the row numbers of each batch,
    each once; a row that is in none stays 0."""
    found = torch.empty(0)
    for numbers, batch in zip(plan, batches, strict=True):
        if not len(found):
            found = batch.new_zeros(rows, *batch.shape[1:])
        found[torch.as_tensor(numbers)] = batch
    return found


def measure(trainer: L.Trainer, distiller: L.LightningModule, data: L.LightningDataModule) -> dict[str, float]:
    """All metrics on the validation data and, under their own names, on the further labelled splits of a task, with what the
    data say about how good is good. A student that training has validated as it is now is not measured again."""
    if distiller.measured:
        metrics = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        last = {name: float(value) for name, value in metrics.items()} | {"epoch": trainer.current_epoch}
        for logger in trainer.loggers:  # whose last entry is that of the weights that are kept
            logger.log_metrics(last, trainer.global_step)
            logger.save()
    else:
        trainer.validate(distiller, data, verbose=False)
        metrics = dict(trainer.callback_metrics)
    for split, loader in data.evaluations().items():
        trainer.test(distiller, {split: loader}, verbose=False)
        metrics |= trainer.callback_metrics
    metrics |= data.references
    return {name: float(value) for name, value in sorted(metrics.items())}


def predict(trainer: L.Trainer, distiller: L.LightningModule, data: L.LightningDataModule) -> pa.Table | None:
    """The validation rows in order: `row` (from 0), `label`, `length` in the student's tokens, and the logits of `student` and
    `teacher`, a list each.

    None where the run is about no task, or its student has no trained head.
    """
    if not (distiller.student.spec.labels and distiller.student_needs.logits):
        return None
    loader = data.val_dataloader()
    batches, plan = trainer.predict(distiller, loader), loader.dataset.plan
    mine, rows = [plan[number] for number in loader.sampler.mine], sum(map(len, plan))

    def whole(name: str) -> Tensor:
        own = in_row_order((batch.pop(name).cpu() for batch in batches), mine, rows)
        return summed(own.to(trainer.strategy.root_device)).cpu() if len(mine) < len(plan) else own  # of several processes

    columns = {name: column(whole(name)) for name in [*batches[0]]}
    return pa.table({"row": range(len(columns["label"])), **columns})


def export(distiller: L.LightningModule, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Write the student and its tokenizer as a Hugging Face folder. A head that no term trains is left out."""
    student = distiller.student
    model = (student.model if distiller.student_needs.logits else student.model.base_model).cpu().eval()
    add_code(model, folder)
    model.to(dtype).save_pretrained(folder)
    student.tokenizer.save_pretrained(folder)
    return model.float()


def facts(folder: Path, model: PreTrainedModel, max_length: int) -> dict[str, Any]:
    """What is reported of a model beside its metrics; None is what could not be measured."""
    size, length = sum(file.stat().st_size for file in folder.glob("*.safetensors")), min(64, max_length)
    operations, (time,) = megaflops(model, length), latency([model], length)
    return {
        "parameters": parameters(model),
        "megabytes": round(size / 1e6, 2),
        f"megaflops ({length} tokens)": operations and round(operations, 3),
        f"milliseconds (batch 1, {length} tokens, {torch.get_num_threads()} threads, fastest tenth)": time and round(time, 2),
    }


def record(cfg: DictConfig, command: str, labels: Sequence[str]) -> Record:
    """What run.yaml says of a stage. labels: the student's, where the task learns its own from the rows."""
    known = {name: cfg[name] for name in ("name", "identity", "setting", "method", "stage", "scale", "seed", "metric")}
    task = cfg.task and Task(**OmegaConf.to_container(cfg.task) | {"labels": list(labels)})
    answers = ", ".join(Path(file).name for file in files(cfg))
    teacher = f"answers in {answers}" if answers else cfg.networks.teacher and str(cfg.networks.teacher.path)
    return Record(**known, task=task, teacher=teacher, starts_from=dict(cfg.starts_from), command=printable(command))


def save(
    cfg: DictConfig, command: str, metrics: dict[str, float], predictions: pa.Table | None, distiller: L.LightningModule
) -> None:
    """Write the artifact, whole or not at all: first what makes it, then the figures that are only reported."""

    def write(folder: Path) -> None:
        model = export(distiller, folder, getattr(torch, cfg.export_dtype))
        record(cfg, command, distiller.student.spec.labels).write(folder, OmegaConf.to_container(cfg))
        if predictions is not None:
            parquet.write_table(predictions, folder / "predictions.parquet")
        (folder / METRICS).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
        card.write(folder, *collect([folder]), model, facts(folder, model, cfg.data.max_length), interval=False)
        manifest.write(folder)

    replace(Path(cfg.artifact), write)
