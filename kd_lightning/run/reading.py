"""An artifact read back. It may be a stranger's or half of one: every file is looked at before anything loads it, and what is
wrong is said with the file's name. Nothing in it is run: no code of a model's folder, no pickle."""

import csv
import json
import math
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from kd_lightning.manifest import AGAIN, check
from kd_lightning.pairing import from_json
from kd_lightning.run.artifact import load
from kd_lightning.run.record import Record, read
from kd_lightning.run.shown import printable

MOST = 50_000_000  # bytes of a file of curves
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
Curve = list[tuple[float, float]]  # steps and values
UNLOADABLE = (
    ImportError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
)


def made_by(folder: Path) -> Record:
    """The record of the run that left a classifier there; raises ValueError where there is none, or not all of it."""
    check(folder)
    record = read(folder)
    heads = settings(folder).get("architectures")
    head = heads[0] if isinstance(heads, list) and heads else None
    if record.task is None or not isinstance(head, str) or not head.endswith("ForSequenceClassification"):
        raise ValueError(
            f"{folder}: this encoder has no head that classifies (method {record.method}, stage {record.stage}). "
            "Choose what stage=task left."
        )
    return record


def settings(folder: Path) -> dict[str, Any]:
    """What config.json says of the model."""
    found = _json(folder / "config.json")
    if chosen := [name for name in found if "_implementation" in name]:  # it may name code on the hub
        raise ValueError(f"{folder / 'config.json'} chooses code to run ({printable(chosen[0])}). Take this line out of it.")
    if not isinstance(found.get("model_type"), str):
        raise ValueError(f"{folder / 'config.json'} does not say of which type the model is (model_type). {AGAIN}")
    if not isinstance(found.get("id2label", {}), dict):
        raise ValueError(f"{folder / 'config.json'} has no names in id2label. {AGAIN}")
    return found


def config(folder: Path) -> PretrainedConfig:
    """The same as transformers reads it, under names that are alike for all types."""
    settings(folder)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except UNLOADABLE as error:
        raise ValueError(f"{folder / 'config.json'} cannot be loaded ({_said(error)}). {AGAIN}") from error


def labels(config: PretrainedConfig, folder: Path) -> list[str]:
    """The names of the classes in the order of the logits; what a terminal would obey in one is written out."""
    try:
        return [printable(str(config.id2label[number])) for number in range(config.num_labels)]
    except KeyError as error:
        raise ValueError(f"{folder / 'config.json'} names no class {error} in id2label. {AGAIN}") from error


def model(folder: Path) -> PreTrainedModel:
    """The model in the folder, with the head it was saved with, in float32."""
    config(folder)
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise ValueError(f"{folder / WEIGHTS[0]} is missing. {AGAIN}")
    try:
        return load(folder)
    except UNLOADABLE as error:
        raise ValueError(f"{folder}: model.safetensors does not load with its config.json ({_said(error)}). {AGAIN}") from error


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise ValueError(f"{folder / VOCABULARIES[0]} is missing. {AGAIN}")
    for file in sorted(folder.glob("tokenizer*.json")):
        found = _json(file)
        if file.name == VOCABULARIES[0] and not isinstance(found.get("model"), dict):
            raise ValueError(f"{file} holds no tokenizer. {AGAIN}")
    try:
        with from_json():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except UNLOADABLE as error:
        raise ValueError(f"{folder}: its tokenizer cannot be loaded ({_said(error)}). {AGAIN}") from error


def curves(folder: Path) -> dict[str, Curve]:
    """What was logged while the artifact was made, by its name; nothing where the run's files are not beside it."""
    file = folder.with_name(f"{folder.name}.run") / "metrics.csv"
    if not file.is_file():
        return {}
    if file.stat().st_size > MOST:
        raise ValueError(f"{file} has more than {MOST:,} bytes. {AGAIN}")
    found: dict[str, Curve] = {}
    with file.open(newline="", encoding="utf-8", errors="replace") as opened:
        try:
            for row in csv.DictReader(opened):
                for name in (name for name, cell in row.items() if name not in ("step", "epoch") and cell):
                    if math.isfinite(value := float(row[name])):
                        found.setdefault(name, []).append((float(row["step"]), value))
        except (csv.Error, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} cannot be read as rows with a step and numbers. {AGAIN}") from error
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{file} is missing. {AGAIN}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as JSON ({_said(error)}). {AGAIN}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no fields. {AGAIN}")
    return found


def _said(error: BaseException) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])[:200]
