"""What an artifact says of itself: `run.yaml` and `metrics.json`, read as data and checked field by field.

run.yaml is plain YAML: no tag and no interpolation means anything in it. Its last entry, `settings`, is the whole
configuration of the run, for people; of it nothing is read back but the number of labels, and all of it by the report, to show
it.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from kd_lightning.manifest import AGAIN
from kd_lightning.run.shown import acts, printable

FILE, METRICS = "run.yaml", "metrics.json"
MOST = 4_000_000  # bytes of one of these files: that of 10,000 classes has one million
LONGEST = 100_000  # characters of one value
ALIASES = 100


@dataclass(frozen=True)
class Task:
    """The task of a run: the classes in the order of the logits (one: a regression) and the one or two columns it reads."""

    name: str
    monitor: str
    labels: list[str]
    text: list[str]
    max_length: int


@dataclass(frozen=True)
class Record:
    """What made an artifact.

    name: readable, without the seed. identity: a digest of everything that it is made of; setting: the same but for seeds, so
    that artifacts of equal setting are seeds of one model. metric: the deciding one's key in metrics.json. task: None of a
    stage on a corpus. teacher: the folder or hub name that it learnt from. starts_from: who -> folder.
    """

    name: str
    identity: str
    setting: str
    method: str
    stage: str
    scale: str
    seed: int
    metric: str
    task: Task | None
    teacher: str | None
    starts_from: dict[str, str]
    command: str

    def __post_init__(self) -> None:
        """Raises ValueError for a field that could not be read back either."""
        for name in ("name", "method", "stage", "scale"):
            _name(name, getattr(self, name))
        for name in ("identity", "setting"):
            _digest(name, getattr(self, name))
        _whole("seed", self.seed, 0)
        _text("metric", self.metric)
        _text("command", self.command)
        if self.teacher is not None:
            _text("teacher", self.teacher)
        if not isinstance(self.starts_from, dict):
            raise ValueError(f"starts_from is {_quoted(self.starts_from)}, and not names with a folder each")
        for who, folder in self.starts_from.items():
            _name("starts_from", who)
            _text(f"starts_from.{who}", folder)
        if self.task is not None:
            _name("task.name", self.task.name)
            _name("task.monitor", self.task.monitor)
            _each("task.labels", self.task.labels, _text)
            _each("task.text", self.task.text, _text)
            if len(self.task.text) not in (1, 2):
                raise ValueError(f"task.text has {len(self.task.text)} columns, and not one or the two of a pair")
            _whole("task.max_length", self.task.max_length, 1)

    def write(self, folder: Path, settings: dict[str, Any]) -> None:
        """Write run.yaml there. settings: everything, resolved, for people."""
        content = asdict(self) | {"settings": settings}
        text = yaml.dump(content, Dumper=_Unaliased, sort_keys=False, allow_unicode=True, width=128)
        (folder / FILE).write_text(text, encoding="utf-8")


def read(folder: Path) -> Record:
    """The record of the run that left this folder; raises ValueError where there is none or something in it is wrong."""
    file, found = folder / FILE, _fields(folder)
    if "distiller" in found or (isinstance(found.get("method"), dict) and "name" in found["method"]):
        raise ValueError(f"{file} was made by an earlier version of kd-lightning. Run the stage again.")
    try:
        task = None if found.get("task", 0) is None else _made(Task, found.get("task"), "task.")
        return _made(Record, {**found, "task": task}, "")
    except ValueError as error:
        raise ValueError(f"{file}: {error}. {AGAIN}") from error


def read_settings(folder: Path) -> dict[str, Any]:
    """The whole configuration of that run, to be shown and nothing else: no value in it has been checked."""
    found = _fields(folder).get("settings")
    if not isinstance(found, dict):
        raise ValueError(f"{folder / FILE}: settings is {_quoted(found)}, and not names with a value each. {AGAIN}")
    return found


def label_budget(folder: Path) -> int | None:
    """How many labels the run's settings say that it kept of its training rows. None: all, or nothing that is a number."""
    found: Any = _fields(folder)
    for name in ("settings", "data", "label_budget"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None


def _fields(folder: Path) -> dict[str, Any]:
    """What run.yaml says, as it stands there."""
    file = folder / FILE
    if not file.is_file():
        raise ValueError(f"{folder}: no artifact is there (a folder with {FILE} and model.safetensors, which a stage leaves).")
    try:
        found = yaml.load(_content(file), Loader=_Plain)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = " ".join(printable(str(error).replace("\n", " ")).split())
        raise ValueError(f"{file} cannot be read as plain YAML ({said[:200]}). {AGAIN}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no fields. {AGAIN}")
    return found


def read_metrics(folder: Path) -> dict[str, float]:
    """What metrics.json says: name -> a number, NaN where there was nothing to measure."""
    file = folder / METRICS
    if not file.is_file():
        raise ValueError(f"{file} is missing. {AGAIN}")
    try:
        found = json.loads(_content(file))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as JSON ({printable(str(error))[:200]}). {AGAIN}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no names with a number each. {AGAIN}")
    for name, value in found.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if any(map(acts, name)) or not number or abs(value) > 1e300:
            raise ValueError(f"{file}: {_quoted(name)} is {_quoted(value)}, and not a name with a finite number. {AGAIN}")
    return {name: float(value) for name, value in found.items()}


def _content(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST + 1)
    except OSError as error:
        raise ValueError(f"{error.strerror}") from error
    if len(content) > MOST:
        raise ValueError(f"it has more than {MOST:,} bytes")
    return content.decode("utf-8")


def _made(kind: type, found: Any, prefix: str) -> Any:
    """A dataclass of these fields and of no others."""
    if not isinstance(found, dict):
        raise ValueError(f"{prefix.rstrip('.')} is {_quoted(found)}, and not fields with a value each")
    names = list(kind.__dataclass_fields__)
    if missing := [f"{prefix}{name}" for name in names if name not in found]:
        raise ValueError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    return kind(**{name: found[name] for name in names})


def _quoted(value: Any) -> str:
    """Of a value from outside the beginning, so that a message stays one."""
    said = ascii(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return said if len(said) <= 60 else f"{said[:57]}..."


def _text(field: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{field} is {_quoted(value)}, and not text")
    if len(value) > LONGEST:
        raise ValueError(f"{field} has more than {LONGEST:,} characters")
    if any(map(acts, value)):
        raise ValueError(f"{field} is {_quoted(value)}, and holds characters that are not shown but obeyed")


def _name(field: str, value: Any) -> None:
    _text(field, value)
    if not value.strip() or value in (".", "..") or "/" in value or "\\" in value:
        raise ValueError(f"{field} is {_quoted(value)}, and not a name (it may hold no / and no \\)")


def _digest(field: str, value: Any) -> None:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{16}", value):
        raise ValueError(f"{field} is {_quoted(value)}, and not 16 hexadecimal digits")


def _whole(field: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**63:
        raise ValueError(f"{field} is {_quoted(value)}, and not a whole number from {least} on")


def _each(field: str, values: Any, check: Callable[[str, Any], None]) -> None:
    if not isinstance(values, list) or not values:
        raise ValueError(f"{field} is {_quoted(values)}, and not a list of some")
    for value in values:
        check(field, value)


class _Plain(yaml.SafeLoader):
    """Without merges and with few aliases: some lines of them can stand for more than memory holds."""

    aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        self.aliases += self.check_event(yaml.AliasEvent)
        if self.aliases > ALIASES:
            raise yaml.YAMLError(f"it holds more than {ALIASES} aliases (*)")
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise yaml.YAMLError("it merges mappings (<<), which no run does")


class _Unaliased(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True
