"""A chain of stages: which runs come first, and where each leaves its artifact.

An artifact lies at `<artifacts>/<scale>/<the recipe's artifact name>`. Where the command line changes more than the choice
of method, stage, scale and task, a digest of those changes follows the name, so that the runs of a sweep never meet.
With `seeds`, each seed after the first adds its number. The stages it starts from are made again with it, but for those
that are `shared` (`conf/stage`): the teacher and the general student.
"""

import copy
import hashlib
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict

# What an override of these says, it says of every stage of a chain; of anything else, of the named stage alone.
INHERITED = (
    "scale",
    "task",
    "experiment",
    "epochs.",  # by stage, of an experiment
    "updates.",
    "looks.",
    "student",
    "teacher",
    "method.",
    "seed",
    "corpus",
    "augment",
    "glue",
    "cache",
    "artifacts",
    "trainer.precision",
)
# So do these, of the machine, and they change no artifact.
MACHINE = ("trainer.accelerator", "trainer.devices", "trainer.strategy", "data.workers", "teacher.stored")
RUN_WIDE = ("logger", "ckpt_path", "checkpoint_minutes", "prerequisites", "compare", "seeds")
# What changes neither an artifact nor its place.
NEUTRAL = ("method", "stage", "scale", "task", "glue", "cache", "artifacts", "hydra", *RUN_WIDE)
# The parts of a configuration that an artifact depends on, and what of them depends on the machine alone.
IDENTITY = ("seed", "distiller", "networks", "data", "optim", "trainer")
INDIFFERENT = {
    "trainer": ("accelerator", "devices", "strategy", "log_every_n_steps"),
    "data": ("cache", "workers"),
    "networks": ("stored",),
}


def plan(cfg: DictConfig, overrides: list[str]) -> list[DictConfig]:
    """The runs of a chain, prerequisites first, cfg among them, for one seed after the other.

    In each, `artifact` is the whole path, `setting` that path but for the seed, `changes` what the digest in it stands for, and
    teacher.path and student.path say where it starts from.

    overrides: the command line. Raises ValueError where a prerequisite is missing and prerequisites=error, or where an
    artifact of that name was made with other settings.
    """
    if cfg.prerequisites not in ("run", "error"):
        raise ValueError(f"prerequisites={cfg.prerequisites}: choose run or error.")
    if not isinstance(cfg.seeds, int) or cfg.seeds < 1:
        raise ValueError(f"seeds={cfg.seeds}: give how many seeds, 1 or more (the first one is seed={cfg.seed}).")
    runs: dict[str, DictConfig] = {}
    named = [cfg, *(copy.deepcopy(cfg) for _ in range(1, cfg.seeds))]
    for number, own in enumerate(named):
        seed = cfg.seed + number if number else None
        _add(own, overrides, runs, seed)
        for choice in cfg.compare:
            kept = _inherited(overrides, choice.method == cfg.method.name, to_teacher=False)
            _add(_compose(choice, kept), kept, runs, seed)
    missing = [path for path, run in runs.items() if run.setting != cfg.setting and not finished(run)]
    if cfg.prerequisites == "error" and missing:
        raise ValueError(
            f"earlier stages are missing: {', '.join(missing)}. Run them first, or set prerequisites=run, or name a model "
            "with teacher.path=... or student.path=..."
        )
    return list(runs.values())


def finished(cfg: DictConfig) -> bool:
    """Whether the run's artifact is there, made with these very settings."""
    folder = Path(cfg.artifact)
    if not (folder / "metrics.json").is_file():
        return False
    made, wanted = identity(OmegaConf.load(folder / "run.yaml")), identity(cfg)
    differing = sorted(key for key in made.keys() | wanted.keys() if made.get(key) != wanted.get(key))
    if differing:
        raise ValueError(
            f"{folder} was made with other settings ({', '.join(differing[:5])}). Delete it, or choose another folder with "
            "artifacts=<folder>."
        )
    return True


def identity(cfg: DictConfig) -> dict[str, Any]:
    """What an artifact depends on, resolved and flat: "optim.lr" -> 3e-5."""
    flat: dict[str, Any] = {}

    def visit(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{name}.{key}", inner)
        elif name.rpartition(".")[2] not in INDIFFERENT.get(name.partition(".")[0], ()):
            flat[name] = value

    for part in IDENTITY:
        value = cfg[part]
        visit(part, OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value)
    return flat


def _compose(choice: DictConfig, overrides: list[str]) -> DictConfig:
    return compose("train", [f"method={choice.method}", f"stage={choice.stage}", *overrides])


def _inherited(overrides: list[str], same_method: bool, to_teacher: bool) -> list[str]:
    """Those overrides that also speak of an earlier stage."""
    kept = []
    for override in overrides:
        name = override.lstrip("+~").split("=")[0]
        if name in ("student.path", "teacher.path") or not name.startswith((*INHERITED, *MACHINE, *RUN_WIDE)):
            continue
        if (name.startswith("method.") and not same_method) or (name.startswith("student") and to_teacher):
            continue
        kept.append(override)
    return kept


def _add(cfg: DictConfig, overrides: list[str], runs: dict[str, DictConfig], seed: int | None) -> bool:
    """Append cfg's prerequisites and then cfg to runs; fill in where it starts from and what it leaves.

    seed: of a repetition of the chain; None: cfg's own. Returns whether it or one of its prerequisites heeds `augment`, as
    teachers and baselines do not: what they leave is the same with it.
    """
    heeds_augment = "augment" in cfg.data and OmegaConf.is_interpolation(cfg.data, "augment")
    for who, choice in cfg.starts_from.items():
        if cfg[who].path is None:
            kept = _inherited(overrides, choice.method == cfg.method.name, to_teacher=who == "teacher")
            earlier = _compose(choice, kept)
            heeds_augment |= _add(earlier, kept, runs, None if earlier.stage.shared else seed)
            cfg[who].path = earlier.artifact
    if cfg.teacher.path is None:
        cfg.teacher.path = cfg.teacher.pretrained
    unread = MACHINE if heeds_augment else (*MACHINE, "augment", "task.variants")
    read = ("method.", "task.") if "reader" in cfg.data else ("method.",)  # a corpus is about no task
    names = {override: override.lstrip("+~").split("=")[0] for override in overrides}
    own = sorted(
        override
        for override, name in names.items()
        if not name.startswith(unread) and (name.split(".")[0] not in NEUTRAL or name.startswith(read))
    )
    place = Path(cfg.artifacts) / cfg.scale.name / cfg.artifact
    with open_dict(cfg):
        changes = [override for override in own if not override.startswith("seed=")]
        cfg.changes = [change.replace("${", "\\${") for change in changes]  # not to be filled in
        cfg.setting = f"{place}{_digest(changes)}"
        cfg.artifact = f"{place}{_digest(own)}"
    if seed is not None:
        cfg.seed, cfg.artifact = seed, f"{cfg.artifact}-seed{seed}"
    runs.setdefault(cfg.artifact, cfg)
    return heeds_augment


def _digest(overrides: list[str]) -> str:
    return f"-{hashlib.blake2b(repr(overrides).encode(), digest_size=4).hexdigest()}" if overrides else ""
