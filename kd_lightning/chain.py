"""A chain of stages: which runs come first, and where each leaves its artifact.

An artifact lies at `<artifacts>/<scale>/<the recipe's artifact name>`. Where the command line changes more than the choice
of method, stage, scale and task, a digest of those changes follows the name, so that the runs of a sweep never meet.
"""

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
    "student",
    "teacher",
    "method.",
    "seed",
    "corpus",
    "glue",
    "cache",
    "artifacts",
    "trainer.precision",
)
# So do these, of the machine, and they change no artifact.
MACHINE = ("trainer.accelerator", "trainer.devices", "trainer.strategy", "data.workers")
RUN_WIDE = ("logger", "ckpt_path", "checkpoint_minutes", "prerequisites", "compare")
# What changes neither an artifact nor its place.
NEUTRAL = ("method", "stage", "scale", "task", "glue", "cache", "artifacts", "hydra", *RUN_WIDE)
# The parts of a configuration that an artifact depends on, and what of them depends on the machine alone.
IDENTITY = ("seed", "distiller", "networks", "data", "optim", "trainer")
INDIFFERENT = {"trainer": ("accelerator", "devices", "strategy", "log_every_n_steps"), "data": ("cache", "workers")}


def plan(cfg: DictConfig, overrides: list[str]) -> list[DictConfig]:
    """The runs of a chain, prerequisites first, cfg among them; in each, `artifact` is the whole path and teacher.path and
    student.path say where it starts from.

    overrides: the command line. Raises ValueError where a prerequisite is missing and prerequisites=error, or where an
    artifact of that name was made with other settings.
    """
    if cfg.prerequisites not in ("run", "error"):
        raise ValueError(f"prerequisites={cfg.prerequisites}: choose run or error.")
    runs: dict[str, DictConfig] = {}
    _add(cfg, overrides, runs)
    for choice in cfg.compare:
        kept = _inherited(overrides, choice.method == cfg.method.name, to_teacher=False)
        _add(_compose(choice, kept), kept, runs)
    missing = [path for path, run in runs.items() if run is not cfg and not finished(run)]
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


def _add(cfg: DictConfig, overrides: list[str], runs: dict[str, DictConfig]) -> None:
    """Append cfg's prerequisites and then cfg to runs; fill in where it starts from and what it leaves."""
    for who, choice in cfg.starts_from.items():
        if cfg[who].path is None:
            kept = _inherited(overrides, choice.method == cfg.method.name, to_teacher=who == "teacher")
            earlier = _compose(choice, kept)
            _add(earlier, kept, runs)
            cfg[who].path = earlier.artifact
    if cfg.teacher.path is None:
        cfg.teacher.path = cfg.teacher.pretrained
    names = {override: override.lstrip("+~").split("=")[0] for override in overrides}
    own = sorted(
        override
        for override, name in names.items()
        if name not in MACHINE and (name.split(".")[0] not in NEUTRAL or name.startswith(("method.", "task.")))
    )
    digest = f"-{hashlib.blake2b(repr(own).encode(), digest_size=4).hexdigest()}" if own else ""
    with open_dict(cfg):
        cfg.artifact = str(Path(cfg.artifacts) / cfg.scale.name / f"{cfg.artifact}{digest}")
    runs.setdefault(cfg.artifact, cfg)
