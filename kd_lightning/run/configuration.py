"""A configuration made ready for a plan, and the usual one that it differs from."""

import copy
from collections.abc import Iterator
from functools import cache

from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from kd_lightning.run import start
from kd_lightning.run.answered import by_answers
from kd_lightning.run.mistake import unknown

SAID = ("trainer", "optim", "data")  # what is said of these at the root is said of every stage


def prepared(cfg: DictConfig) -> DictConfig:
    """A copy in which each stage has heard what is said of all, and every name is a plain one."""
    cfg = copy.deepcopy(cfg)
    if OmegaConf.is_config(cfg.teacher.pretrained):
        cfg.teacher.pretrained = str(instantiate(cfg.teacher.pretrained))
    if "starts" in cfg:
        cfg.start, _ = start.chosen(cfg)
    by_answers(cfg)
    names = list(cfg.stages)
    if strays := [name for name in names if "distiller" not in cfg.stages[name]]:
        raise ValueError(
            f"stages.{strays[0]}: method={cfg.method.name} has no such stage; it has "
            f"{', '.join(name for name in names if name not in strays)}. Is the experiment made for another method?"
        )
    stages = [cfg.stages[name] for name in dict.fromkeys(named(cfg, name) for name in names)]
    for part in SAID:
        for key in (key for key in cfg[part] if not OmegaConf.is_missing(cfg[part], key)):
            heed = [stage for stage in stages if part == "trainer" or key in stage[part]]  # a Trainer takes any
            if not heed:
                raise ValueError(f"{part}.{key}: no stage of method={cfg.method.name} reads it.")
            for stage in heed:
                with open_dict(stage):
                    stage[part][key] = cfg[part][key]
    return cfg


def named(cfg: DictConfig, stage: str) -> str:
    """The stage itself where its name stands for another one's."""
    if stage not in cfg.stages:
        raise ValueError(f"stage={stage}: method={cfg.method.name} has none of this name; it has {', '.join(cfg.stages)}.")
    node = cfg.stages._get_node(stage)
    return node._value().removeprefix("${stages.").removesuffix("}") if OmegaConf.is_interpolation(cfg.stages, stage) else stage


def usual(cfg: DictConfig) -> tuple[DictConfig, bool]:
    """This method, scale and task with nothing else said; and whether something must be said, which is then as it is here."""
    default = copy.deepcopy(_composed(*(cfg[group].name for group in ("method", "scale", "task"))))
    demanded = [key for word in default if word not in SAID for key in _missing(default, word)]
    for key in demanded:
        OmegaConf.update(default, key, OmegaConf.select(cfg, key))
    default.glue = cfg.glue  # where they lie is no setting
    return prepared(default), bool(demanded)


@cache
def _composed(method: str, scale: str, task: str) -> DictConfig:
    return compose("train", [f"method={method}", f"scale={scale}", f"task={task}"])


def refuse_added(cfg: DictConfig, default: DictConfig) -> None:
    """What `+name=value` adds here nothing would read."""
    for prefix, ours, usual in (("", cfg, default), ("method.", cfg.method, default.method)):
        for key in (key for key in ours if key not in usual):
            raise ValueError(unknown(f"{prefix}{key}", [f"{prefix}{name}" for name in usual]))


def _missing(cfg: DictConfig, name: str) -> Iterator[str]:
    """Every ??? below a name, itself included; what only refers to one is none."""
    node = cfg._get_node(name)
    if node._is_missing():
        yield name
    elif OmegaConf.is_dict(node) and not (node._is_interpolation() or node._is_none()):
        yield from (f"{name}.{key}" for inner in node for key in _missing(node, inner))
