"""What a report is about, read from the folders a person names: stages and their curves, results, sweeps.

Scores, predictions and their checks are those of `kd_lightning.run.results`, and the table is that of `kd_lightning.compare`:
no figure is computed twice. Whatever is read may be a stranger's: it is data, and only shown.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kd_lightning.compare import compare, find
from kd_lightning.manifest import check
from kd_lightning.run.configuration import prepared
from kd_lightning.run.identity import DATA, MACHINE, MODELS, PARTS
from kd_lightning.run.mistake import composing
from kd_lightning.run.reading import Curve, curves
from kd_lightning.run.record import FILE, Record, read, read_settings
from kd_lightning.run.results import Result
from kd_lightning.run.sweep import ABOUT, FOUND, gather
from kd_lightning.run.sweep import FILE as RESULT

UNSAID = (*MACHINE, *MODELS, *DATA)  # settings that say where, and not how


@dataclass(frozen=True)
class Stage:
    """An artifact. changed: setting -> what it was, where it is not the default; None if the default cannot be known here.
    curves: what was logged while it was trained, by its name in metrics.csv."""

    folder: Path
    record: Record
    changed: dict[str, str] | None
    curves: dict[str, Curve]


@dataclass(frozen=True)
class Sweep:
    """The jobs of one multirun, as `kd_lightning.run.sweep.gather` has them."""

    folder: Path
    jobs: list[dict[str, str]]

    @property
    def finished(self) -> list[dict[str, str]]:
        return [job for job in self.jobs if _number(job["value"]) is not None]

    @property
    def settings(self) -> list[str]:
        """What the finished jobs set to different values."""
        names = dict.fromkeys(name for job in self.finished for name in job if name not in (*FOUND, *ABOUT))
        return [name for name in names if len({job.get(name) for job in self.finished}) > 1]


@dataclass(frozen=True)
class Material:
    stages: list[Stage]
    results: list[Result]
    table: list[dict[str, str]]
    sweeps: list[Sweep] = field(default_factory=list)


def material(paths: Sequence[Path]) -> Material:
    """Everything below these paths. Raises ValueError where there is nothing, or something that cannot be read."""
    folders, sweeps = {}, []
    for path in paths:
        artifacts = {file.parent.resolve(): file for file in path.rglob(FILE) if ".unfinished" not in file.parent.name}
        parents = sorted({file.parent.parent for file in path.rglob(RESULT)})
        if not artifacts and not parents:
            raise ValueError(f"{path}: neither an artifact ({FILE}) nor a run's {RESULT} is there; name a folder of artifacts.")
        folders |= dict.fromkeys(artifacts)
        sweeps += [Sweep(parent, gather(parent)) for parent in parents]
    stages = [stage(folder) for folder in sorted(folders)]
    measured = [str(stage.folder) for stage in stages if stage.record.task is not None]
    results = find(measured) if measured else []
    return Material(in_order(stages), results, compare(results) if results else [], sweeps)


def stage(folder: Path) -> Stage:
    check(folder)
    record = read(folder)
    return Stage(folder, record, changed(read_settings(folder), record), curves(folder))


def in_order(stages: list[Stage]) -> list[Stage]:
    """What another starts from stands before it."""
    ordered: dict[Path, Stage] = {}

    def place(current: Stage, above: tuple[Path, ...]) -> None:
        for before in stages:
            starts = [Path(path).parts[-2:] for path in current.record.starts_from.values()]
            if before.folder.parts[-2:] in starts and before.folder not in (*ordered, *above, current.folder):
                place(before, (*above, current.folder))
        ordered.setdefault(current.folder, current)

    for each in stages:
        place(each, ())
    return list(ordered.values())


def changed(settings: dict[str, Any], record: Record) -> dict[str, str] | None:
    """Of what the training read, the settings that are not those of this method, scale and task with nothing else said."""
    default = _default(record.method, record.scale, record.task and record.task.name, record.stage)
    if default is None:
        return None
    own = _flat({part: settings.get(part) for part in PARTS})
    return {name: str(value) for name, value in own.items() if name not in default or default[name] != value}


@cache
def _default(method: str, scale: str, task: str | None, stage: str) -> dict[str, Any] | None:
    with composing():
        loader = GlobalHydra.instance().config_loader()
        choices = {"method": method, "scale": scale} | ({} if task is None else {"task": task})
        if any(name not in loader.get_group_options(group) for group, name in choices.items()):
            return None
        try:
            cfg = prepared(compose("train", [f"{group}={name}" for group, name in choices.items()]))
            if stage not in cfg.stages:
                return None
            return _flat({part: OmegaConf.to_container(cfg.stages, resolve=True)[stage].get(part) for part in PARTS})
        except (HydraException, OmegaConfBaseException, ValueError):  # something must be said that has no default
            return None


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves by their dotted names, but for those that say where a thing lies or on what machine it was made."""
    if name.rpartition(".")[2] in UNSAID:
        return {}
    if not isinstance(value, dict):
        return {name: value}
    inner = (_flat(below, f"{name}.{key}".lstrip(".")) for key, below in value.items())
    return {key: leaf for leaves in inner for key, leaf in leaves.items()}


def _number(text: str | None) -> float | None:
    """None where it is no finite number; the mean where it is one with its deviation, "0.75 ± 0.01"."""
    try:
        value = float((text or "").partition(" ± ")[0])
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def numbers(sweep: Sweep, name: str) -> list[float] | None:
    """A setting or figure of the finished jobs, if it is a number in all of them."""
    found = [_number(job.get(name)) for job in sweep.finished]
    return None if None in found else found
