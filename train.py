"""Distil: `python train.py method=tinybert stage=general`. What can be said is in `conf/`; see README.md."""

import shlex
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from transformers.utils.logging import disable_progress_bar

from kd_lightning.run.chain import finished, plan
from kd_lightning.run.report import show_plan, show_table
from kd_lightning.run.stage import rehearse, run


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> float:
    overrides = list(HydraConfig.get().overrides.task)
    disable_progress_bar()  # of transformers' loading and saving, which takes no time
    try:
        runs = plan(cfg, overrides)
        if rank_zero_only.rank == 0:
            show_plan(runs)
        coming = [stage for stage in runs if not finished(stage)]
        if len(coming) > 1:
            rehearse(coming)
        for stage in coming:
            run(stage, f"python train.py {shlex.join(overrides)}".strip())
        return show_table(cfg, runs) if rank_zero_only.rank == 0 else 0.0
    except (ValueError, InstantiationException, OmegaConfBaseException) as error:
        while isinstance(error, InstantiationException) and error.__cause__ is not None:
            error = error.__cause__
        sys.exit(f"train.py: {error}")


if __name__ == "__main__":
    main()
