"""The loggers of a stage. In Weights & Biases each stage and seed is a run of its own, and goes on where the stage goes on.

A run is named by the artifact, and lies in one group with the others of its chain or sweep. Its id and group are kept in
`wandb.json` beside the checkpoints, so that ckpt_path=last goes on in the same run, without a network too. Under `wandb agent`
the deciding stage is the agent's run, and the others are runs beside it.
"""

import csv
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import get_class, instantiate
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from kd_lightning.run.chain import Plan

KEPT = "wandb.json"
AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")  # what `wandb agent` says to a process, by its environment
LONGEST, LONGEST_TAG = 128, 64  # characters that W&B takes


@contextmanager
def tracked(cfg: DictConfig, command: str, chain: Plan | None, work: Path) -> Iterator[list[Logger]]:
    """The loggers that the configuration names, with its settings in them. W&B's runs are finished in the end, as failed if
    what is done with the loggers raises.

    chain: which the stage is a part of; None: it stands alone. Raises ValueError where W&B cannot be had.
    """
    status, runs = 1, []
    with _agent_heard_by(cfg, chain):
        made = [_made(name, one, cfg, command, chain, work) for name, one in cfg.logger.items()]
        try:
            for logger in made:
                if isinstance(logger, WandbLogger):
                    runs.append(_started(logger))
                logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
            yield made
            status = 0
        finally:
            for run in runs:
                run.finish(exit_code=status)


def group(cfg: DictConfig, chain: Plan | None) -> str:
    """What the runs of a sweep have in common is its folder; those of a chain the stage that it is for, under any seed."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return "/".join(Path(HydraConfig.get().sweep.dir).parts[-2:])
    target = cfg if chain is None else _deciding(chain)
    return f"{target.name}-{target.setting[:6]}"


def _deciding(chain: Plan) -> DictConfig:
    """Of the stage that the chain is for, the run of the first seed."""
    return next(run for run in chain.runs if run.setting == chain.setting)


def _made(name: str, one: DictConfig, cfg: DictConfig, command: str, chain: Plan | None, work: Path) -> Logger:
    settings: dict[str, Any] = {"save_dir": str(work)}
    if issubclass(get_class(one._target_), WandbLogger):
        settings |= _about(one, cfg, command, chain, work)
    try:
        logger = instantiate(one, _convert_="all", **settings)
    except InstantiationException as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            raise ValueError(f"logger={name}: what it needs is not installed: pip install -e '.[{name}]'.") from error
        raise
    if isinstance(logger, CSVLogger) and rank_zero_only.rank == 0:
        _go_on(logger)
    return logger


def _go_on(logger: CSVLogger) -> None:
    """Let it keep the rows that are there, which it would begin without."""
    file = Path(logger.log_dir, "metrics.csv")
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines())) if file.is_file() else []
    logger.experiment.metrics += [{name: value for name, value in row.items() if value} for row in rows]
    logger.save()


def _about(one: DictConfig, cfg: DictConfig, command: str, chain: Plan | None, work: Path) -> dict[str, Any]:
    """What W&B is told of a stage's run."""
    new = {"id": os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4), "group": one.get("group") or group(cfg, chain)}
    known = _kept(work / KEPT, new) if rank_zero_only.rank == 0 else new
    said = HydraConfig.get().runtime.choices.get("experiment") if HydraConfig.initialized() else None
    tags = [cfg.method, cfg.task and cfg.task.name, cfg.scale, None if said == "none" else said, *one.get("tags", [])]
    return {
        "name": Path(cfg.artifact).name[:LONGEST],
        "group": known["group"][:LONGEST],
        "id": known["id"],
        "job_type": cfg.stage,
        "tags": [str(tag)[:LONGEST_TAG] for tag in dict.fromkeys(tags) if tag],
        "notes": command,
        "log_model": False,  # which is about checkpoints; of the artifact see dashboard.py
    }


def _kept(file: Path, new: dict[str, str]) -> dict[str, str]:
    """The id and the group that an interrupted stage had, or else the new ones, which are then kept."""
    if not file.is_file():
        file.write_text(json.dumps(new) + "\n", encoding="utf-8")
        return new
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        known = {name: found[name] for name in new}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not say of which W&B run this stage is. Delete it to go on in a new one.") from error
    if not re.fullmatch(r"[\w-]{1,64}", str(known["id"])):
        raise ValueError(f"{file} holds an id that W&B cannot have given. Delete it to go on in a new run.")
    return known


def _started(logger: WandbLogger) -> Any:
    """The logger's run, which W&B has taken on."""
    from wandb.errors import Error

    try:
        return logger.experiment
    except Error as error:
        raise ValueError(
            f"logger=wandb: W&B cannot be reached with what it knows ({str(error).strip().splitlines()[0].rstrip('.')}). Set "
            "WANDB_API_KEY to your key, or WANDB_MODE=offline to keep the runs here, where `wandb sync` finds them later."
        ) from error


@contextmanager
def _agent_heard_by(cfg: DictConfig, chain: Plan | None) -> Iterator[None]:
    """Let W&B know of its agent while the deciding stage runs, and not while another does."""
    deciding = chain is None or cfg.artifact == _deciding(chain).artifact
    hidden = {} if deciding else {name: os.environ.pop(name) for name in AGENT if name in os.environ}
    if "WANDB_SWEEP_ID" in os.environ or hidden:
        import wandb

        wandb.teardown()  # it reads its environment once
    try:
        yield
    finally:
        os.environ |= hidden
