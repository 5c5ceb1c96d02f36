"""A task by its name: its metrics and its reader come from `conf/task`, and never from what an artifact says of them."""

import inspect
import warnings
from collections.abc import Sequence

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torchmetrics import Metric

from kd_lightning.run.mistake import CONF, composing, sentence


def task(name: str, settings: Sequence[str] = ()) -> DictConfig:
    """A task of our own configuration. settings: what a person says of its data, as to train.py, e.g.
    task.files.train=mine.csv or glue=<folder>."""
    with composing():
        there = GlobalHydra.instance().config_loader().get_group_options("task")
        if name not in there:
            raise ValueError(f"task {ascii(name)[:60]}: conf/task has none of this name; it has {', '.join(there)}.")
        common = OmegaConf.load(CONF / "train.yaml")
        defaults = [f"+glue={common.glue or 'null'}", f"+cache={common.cache}"]
        try:
            return compose(overrides=[f"+task={name}", *defaults, *settings]).task
        except HydraException as error:
            raise ValueError(f"{' '.join(settings)}: {str(error).strip().splitlines()[0]}") from error


def reader(name: str, settings: Sequence[str] = ()):
    """What reads the task's rows."""
    try:
        return instantiate(task(name, settings).reader, _convert_="all")
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(sentence(error)) from error


def metric(name: str, monitor: str, classes: int) -> Metric:
    """A metric of the task, empty. classes: how many logits a row has."""
    own = task(name)
    if monitor not in own.metrics:
        raise ValueError(f"task {name} has no metric {ascii(monitor)[:60]}; it has {', '.join(own.metrics)}.")
    if OmegaConf.is_list(own.labels) and len(own.labels) != classes:  # else they are learned from the rows
        raise ValueError(f"task {name} has {len(own.labels)} labels, and a row of these predictions {classes} logits.")
    factory = instantiate(own.metrics[monitor])
    more = {"num_classes": classes} if "num_classes" in inspect.signature(factory).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics says that some keep all answers, which are in memory anyway
        return factory(**more)
