"""An artifact's model card: metadata by huggingface_hub, and what a person wants to know before using the model.

No path of a machine stands in it, since a card is made to be shown. Licence and language are not ours to say: they are taken
over from the card that was there (which may be edited) or from that of the model it was taught by, where these say them.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard import metadata_load
from transformers import PreTrainedModel

from kd_lightning.run.record import Record
from kd_lightning.run.results import Result
from kd_lightning.run.shown import markdown_cell, printable
from kd_lightning.run.task import task

FILE = "README.md"
BEGIN, END = "<!-- export -->", "<!-- /export -->"  # of the part that kd_lightning.export writes
INHERITED = ("license", "language", "base_model")
HUB = r"[A-Za-z0-9][\w.-]*/[\w.-]+"
PLAIN = re.compile(r"[\w./ -]{1,96}")
SHOWN = 20  # labels that are listed
LOAD = {
    "text-classification": (
        "from transformers import pipeline\n\n"
        'classify = pipeline("text-classification", model="{place}")\n'
        "print(classify({example}, truncation=True, max_length={max_length}))"
    ),
    "fill-mask": (
        "from transformers import pipeline\n\n"
        'fill = pipeline("fill-mask", model="{place}")\n'
        'print(fill(f"This is a {{fill.tokenizer.mask_token}}."))'
    ),
    "feature-extraction": (
        "from transformers import AutoModel, AutoTokenizer\n\n"
        'tokenizer, model = AutoTokenizer.from_pretrained("{place}"), AutoModel.from_pretrained("{place}")\n'
        'print(model(**tokenizer("A text.", return_tensors="pt")).last_hidden_state.shape)'
    ),
}


def write(folder: Path, result: Result, model: PreTrainedModel, facts: Mapping[str, Any], *, interval: bool) -> None:
    """Write the card, anew where there is one. result: the artifact's own. facts: what was measured beside the metrics.
    interval: with the 95 % interval of the deciding metric, a bootstrap over the validation rows, which takes a second."""
    file, record = folder / FILE, result.record
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    kind = _pipeline(model)
    teachers = [path for path in (record.teacher, *record.starts_from.values()) if path]
    known = _inherited([file, *(Path(path) / FILE for path in teachers)])
    if named := [path for path in dict.fromkeys(teachers) if re.fullmatch(HUB, path) and not Path(path).exists()]:
        known["base_model"] = named
    data = ModelCardData(
        library_name="transformers",
        tags=["kd-lightning", "knowledge-distillation"],
        pipeline_tag=kind,
        model_name=record.name,
        eval_results=_results(result, kind, interval) or None,
        **_about_task(record),
        **known,
    )
    exported = f"{BEGIN}{before.partition(BEGIN)[2].partition(END)[0]}{END}\n" if BEGIN in before else ""
    parts = [f"---\n{data.to_yaml()}\n---", f"# {printable(record.name)}", _loading(record, model, kind, ".")]
    parts += [_measured(result, facts), _limits(record, model), _made(record), exported]
    file.write_text("\n\n".join(filter(None, parts)).rstrip() + "\n", encoding="utf-8")


def _pipeline(model: PreTrainedModel) -> str:
    kinds = {"SequenceClassification": "text-classification", "MaskedLM": "fill-mask"}
    return next((kind for head, kind in kinds.items() if type(model).__name__.endswith(head)), "feature-extraction")


def _inherited(cards: list[Path]) -> dict[str, str | list[str]]:
    """Of these cards, the first of them first. A card may be a stranger's: what is not plain names is left out."""
    found: dict[str, str | list[str]] = {}
    for card in cards:
        try:
            said = metadata_load(card) or {} if card.is_file() else {}
        except (OSError, ValueError, TypeError, yaml.YAMLError):  # of an odd card nothing is taken
            continue
        for name in INHERITED:
            value = said.get(name)
            values = value if isinstance(value, list) else [value]
            if values and all(isinstance(one, str) and PLAIN.fullmatch(one) for one in values):
                found.setdefault(name, value)
    return found


def _about_task(record: Record) -> dict[str, list[str]]:
    if record.task is None:
        return {}
    hub = task(record.task.name).get("hub")
    return {"metrics": [record.task.monitor]} | ({"datasets": [hub[0]]} if hub else {})


def _results(result: Result, kind: str, interval: bool) -> list[EvalResult]:
    """The deciding metric on the validation rows and on the test rows, where there are some; the baseline is the most frequent
    label."""
    record = result.record
    if record.task is None or kind != "text-classification":
        return []
    own = record.task
    about = {
        "task_type": kind,
        "dataset_type": (task(own.name).get("hub") or [own.name])[0],
        "dataset_name": own.name,
        "metric_type": own.monitor,
    }
    found = []
    for split in ("val", "test"):
        for value in result.scores(f"{split}/student/{own.monitor}"):
            more = {}
            if split == "val" and result.majority is not None:
                more["most_frequent_label"] = round(result.majority, 4)
            if split == "val" and interval and result.predictions is not None:
                low, high = np.quantile(result.resampled[0, 1:].numpy(), [0.025, 0.975])
                more["interval_95"] = [round(float(low), 4), round(float(high), 4)]
            name = "validation" if split == "val" else split
            found.append(EvalResult(**about, dataset_split=name, metric_value=round(value, 4), metric_args=more or None))
    return found


def _loading(record: Record, model: PreTrainedModel, kind: str, place: str) -> str:
    example = '"A text."'
    if record.task is not None and len(record.task.text) == 2:
        example = '{"text": "A text.", "text_pair": "Another one."}'
    length = record.task.max_length if record.task else 0
    lines = LOAD[kind].format(place=place, example=example, max_length=length)
    ours = type(model).__module__.startswith("kd_lightning.")
    lines = f"import kd_lightning  # makes this kind of model known\n{lines}" if ours else lines
    return f'`"{place}"` is the folder of this file; write its path, or its name on the hub.\n\n```python\n{lines}\n```'


def _measured(result: Result, facts: Mapping[str, Any]) -> str:
    known = {
        name: value for name, value in (dict(sorted(result.metrics[0].items())) | dict(facts)).items() if value is not None
    }
    shown = {name: f"{value:.4f}" if isinstance(value, float) else f"{value:,}" for name, value in known.items()}
    lines = [f"| {markdown_cell(name)} | {value} |" for name, value in shown.items()]
    return "\n".join(["## Measured", "", "| | |", "|---|---|", *lines])


def _limits(record: Record, model: PreTrainedModel) -> str:
    said = []
    if record.task is not None:
        labels = ", ".join(markdown_cell(label) for label in record.task.labels[:SHOWN])
        more = f" and {len(record.task.labels) - SHOWN} more" if len(record.task.labels) > SHOWN else ""
        answer = f"the number {labels}" if len(record.task.labels) == 1 else f"one of {labels}{more}, whatever it is asked"
        said += [
            f"It answers {answer}.",
            f"It reads {record.task.max_length} tokens at most; the rest of a longer text is not seen.",
            "Its validation figures are those of rows that may have chosen its checkpoint and its settings.",
        ]
    elif limit := getattr(model.config, "max_position_embeddings", None):
        said.append(f"It reads {limit} tokens at most, and is to be fine-tuned before it answers anything.")
    if record.teacher is not None:
        said.append("What its teacher gets wrong, or prefers without reason, it has learned too.")
    return "\n".join(["## Limits", "", *(f"- {line}" for line in said)])


def _made(record: Record) -> str:
    about = f"By kd-lightning: method {record.method}, stage {record.stage}, scale {record.scale}, seed {record.seed}."
    command = without_paths(record.command)
    return f"## How it was made\n\n{about}\n\n```sh\n{command}\n```"


def without_paths(command: str) -> str:
    """The command with <name> for each path in it; a hub name, or a group of the configuration, is none."""

    def shorter(found: re.Match[str]) -> str:
        path = found[0]
        hub = re.fullmatch(HUB, path) and not Path(path).exists()
        return path if hub or command[found.end() : found.end() + 1] == "=" else f"<{Path(path).name}>"

    return re.sub(r"[^\s=,\[\]{}'\"]*/[^\s=,\[\]{}'\"]*", shorter, command)
