"""A chain of stages: which of the configuration's stages run, in which order, and where each leaves its artifact.

An artifact lies at `<artifacts>/<scale>/<the stage's artifact name>` where nothing about it differs from the defaults of its
method, scale and task. Otherwise the name says in a few words what differs, and ends in a digest of everything that the
artifact is made of (`identity.py`): `tinybert,attention=0-1f0c9a`. With `seeds`, the stages that are not `shared` are made
again for each seed.
"""

import copy
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from kd_lightning.run import record, start
from kd_lightning.run.answered import files
from kd_lightning.run.configuration import named, prepared, refuse_added, usual
from kd_lightning.run.identity import ARTIFACT, Settings, digest, settings, without_seeds
from kd_lightning.run.naming import differences, file_name

OF_A_METHOD = ("method", "stage", "stages", "student", "name", "baseline", "compare")  # and of no other that is compared


@dataclass(frozen=True)
class Plan:
    """runs: the stages, prerequisites first, each with all that it needs. In each, `artifact` is its folder, `name` what a
    person calls it, `identity` and `setting` (the same but for seeds) are digests, and `starts_from` says from which folders.

    setting: of the named stage. given: stage -> the path that stands for it. left_out: stages that are then not needed.
    start: what the student starts from, and why, where nobody said it.
    """

    runs: list[DictConfig]
    setting: str
    given: dict[str, str]
    left_out: list[str]
    start: str


@dataclass(frozen=True)
class Settled:
    """A stage, resolved; another stage's artifact stands in it as `artifact:<identity>`. flat: what its training reads."""

    stage: dict[str, Any]
    flat: Settings
    identity: str
    setting: str


def plan(cfg: DictConfig, overrides: list[str]) -> Plan:
    """overrides: the command line, for the other methods of `compare`. Raises ValueError for what does not fit together."""
    if cfg.prerequisites not in ("run", "error"):
        raise ValueError(f"prerequisites={cfg.prerequisites}: choose run or error.")
    if not isinstance(cfg.seeds, int) or cfg.seeds < 1:
        raise ValueError(f"seeds={cfg.seeds}: give how many seeds, 1 or more (the first one is seed={cfg.seed}).")
    start.check(cfg)
    own = prepared(cfg)
    given, left_out = _given(own, named(own, own.stage))
    wanted = [(own, stage) for stage in (own.stage, *(["baseline"] if own.baseline else []))]
    kept = [override for override in overrides if _speaks_of(override) not in OF_A_METHOD]
    for choice in own.compare:
        if not {"method", "stage"} <= set(choice) <= {"method", "stage", "overrides"}:
            raise ValueError(
                f"compare: {dict(choice)} is given; an entry names a method and a stage, and overrides=[...] for it alone."
            )
        said = list(choice.get("overrides", ()))
        same = choice.method == own.method.name and not said
        wanted.append((own if same else prepared(compose("train", [f"method={choice.method}", *kept, *said])), choice.stage))
    defaults = {chain.method.name: usual(chain) for chain, _ in wanted}
    refuse_added(own, defaults[own.method.name][0])
    runs: dict[str, DictConfig] = {}
    setting = ""
    for number in range(own.seeds):
        for chain, stage in wanted:
            made = _runs(chain, *defaults[chain.method.name], named(chain, stage), own.seed + number)
            setting = setting or made[-1].setting  # of the named stage, which comes first
            for run in made:
                runs.setdefault(run.artifact, run)
    missing = [run.artifact for run in runs.values() if run.setting != setting and not finished(run)]
    if own.prerequisites == "error" and missing:
        raise ValueError(
            f"earlier stages are missing: {', '.join(missing)}. Run them first, or set prerequisites=run, or say where they "
            "are with stages.<stage>.path=<folder>, e.g. teacher.path=<folder>."
        )
    return Plan(list(runs.values()), setting, given, left_out, _start(cfg, runs.values()))


def _start(cfg: DictConfig, runs: Iterable[DictConfig]) -> str:
    """What `auto` has chosen, where a stage begins with it."""
    word, why = start.chosen(cfg) if "starts" in cfg else ("", "")
    begins = {tuple(cfg.starts[word][who].starts_from) for who in ("taught", "alone") if why}
    return f"{word} ({why})" if any(tuple(run.starts_from) in begins for run in runs) else ""


def finished(run: DictConfig) -> bool:
    """Whether the run's artifact is there."""
    return _identity(Path(run.artifact)) == run.identity


def _identity(folder: Path) -> str | None:
    """Of the artifact in the folder; None where there is none, "" where it is an earlier version's."""
    if not all((folder / name).is_file() for name in (record.FILE, record.METRICS)):
        return None
    try:
        return record.read(folder).identity
    except ValueError:
        return ""


def _speaks_of(override: str) -> str:
    """The first word of what an override sets: "student" of student/embeddings=file."""
    return re.split(r"[.=@/]", override.lstrip("+~"))[0]


def _before(cfg: DictConfig, name: str) -> Iterator[str]:
    """What comes before a stage, and then the stage. What stands for a stage is not asked where it came from."""
    for other in cfg.stages[name].starts_from:
        if cfg.stages[other].path is None:
            yield from _before(cfg, other)
    yield name


def _given(cfg: DictConfig, target: str) -> tuple[dict[str, str], list[str]]:
    """What stands for stages of this chain, and which others are then not needed."""
    reached = list(dict.fromkeys(_before(cfg, target)))
    first = {who: cfg.stages[who].path for name in reached for who in cfg.stages[name].starts_from}
    given = {who: str(path) for who, path in first.items() if path is not None}
    left_out = {name for who in given for name in _before(cfg, who)} - set(given) - set(reached)
    answers = sorted({file for name in reached for file in files(cfg.stages[name])})
    if cfg.teacher.answers is not None and not answers:
        raise ValueError(f"teacher.answers: what runs is {', '.join(reached)}, and none of them learns from a task's teacher.")
    said = {"teacher.path": cfg.teacher.path, "student.path": cfg.student.get("path")}
    said |= {f"stages.{name}.path": cfg.stages[name].path for name in cfg.stages}
    read = {path for name in reached for path in _strings(cfg.stages[name].networks)}
    for word, path in said.items():
        if path is not None and path not in read:
            why = "it stands for that very stage" if word == f"stages.{target}.path" else "none of them starts from it"
            raise ValueError(f"{word}={path}: what runs is {', '.join(reached)}, and {why}.")
    return given | ({"teacher": f"answers in {', '.join(answers)}"} if answers else {}), sorted(left_out)


def _settle(cfg: DictConfig, target: str, seed: int) -> dict[str, Settled]:
    """The target and what comes before it, in their order; those that are shared under the configuration's own seed."""
    first, cfg, done = cfg.seed, copy.deepcopy(cfg), {}
    for name in dict.fromkeys(_before(cfg, target)):
        stage = cfg.stages[name]
        cfg.seed = first if stage.shared else seed
        resolved = _plain(stage)
        flat = settings(resolved)
        swap = {ARTIFACT + earlier.identity: ARTIFACT + earlier.setting for earlier in done.values()}
        done[name] = Settled(resolved, flat, digest(flat), digest(replaced(without_seeds(flat), swap)))
        stage.path = ARTIFACT + done[name].identity
    return done


def _runs(cfg: DictConfig, default: DictConfig, demanded: bool, target: str, seed: int) -> list[DictConfig]:
    """The stages up to the target, named and placed. default, demanded: see `configuration.usual`."""
    plainly, settled = _settle(default, target, default.seed), _settle(cfg, target, seed)
    runs, folders, words = [], {}, {}
    for name, made in settled.items():
        base = Path(cfg.artifacts, cfg.scale.name, made.stage["artifact"])
        words[name] = {k: v for who in made.stage["starts_from"] for k, v in words.get(who, {}).items()}
        usually = plainly.get(name) or _settle(default, name, default.seed)[name]
        begun = cfg.start if "start" in made.flat and made.flat["start"] != usually.flat.get("start") else default.start
        if begun != default.start:  # the start is one word, and what else differs is so from the defaults with that start
            words[name] |= {"start": f"start={begun}"}
            like = copy.deepcopy(default)
            like.start = begun
            words[name] |= differences(made.flat, _settle(like, name, default.seed)[name].flat)
        else:
            words[name] |= differences(made.flat, usually.flat)
        readable = (
            file_name(cfg.name) if cfg.name is not None and name == target else ",".join([base.name, *words[name].values()])
        )
        plain = base.with_name(readable)
        same = usually.identity == made.identity and not demanded
        if not (same and _identity(plain) in (None, made.identity)):
            told = "" if made.stage["seed"] == default.seed else f",seed={made.stage['seed']}"
            plain = plain.with_name(f"{readable}{told}-{made.identity[:6]}")
        folders[ARTIFACT + made.identity] = str(plain)
        about = {"stage": name, "scale": cfg.scale.name, "name": readable, "artifact": str(plain), "task": None}
        about |= {"identity": made.identity, "setting": made.setting}
        about |= {word: _plain(cfg[word]) for word in ("logger", "ckpt_path", "checkpoint_minutes", "cache", "budget_ms")}
        about["starts_from"] = {
            who: folders[ARTIFACT + settled[who].identity] if who in settled else str(cfg.stages[who].path)
            for who in made.stage["starts_from"]
        }
        if "reader" in made.stage["data"]:
            about["task"] = {key: _plain(cfg.task[key]) for key in ("name", "monitor", "labels", "text", "max_length")}
        runs.append(OmegaConf.create(replaced(made.stage, folders) | about))
    return runs


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def replaced(value: Any, swap: dict[str, str]) -> Any:
    """value with every string in it that swap names replaced."""
    if isinstance(value, dict):
        return {key: replaced(inner, swap) for key, inner in value.items()}
    if isinstance(value, list):
        return [replaced(inner, swap) for inner in value]
    return swap.get(value, value) if isinstance(value, str) else value


def _strings(node: Any) -> Iterator[str]:
    """Every string below."""
    for value in node.values() if OmegaConf.is_dict(node) else ():
        if isinstance(value, str):
            yield value
        else:
            yield from _strings(value)
