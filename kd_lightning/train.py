"""Distil: `python train.py method=tinybert stage=general`, or `kd-lightning` where the package is installed.

What can be said is in `conf/`, and a folder of one's own with further groups is `--config-dir=<folder>`; see README.md.
"""

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

# What takes seconds to import is imported in the functions, so that a mistake on the command line is said at once.
from kd_lightning.heap import keep_freed_memory
from kd_lightning.keep import WHY
from kd_lightning.run.interrupt import SIGNALS, Interrupted, say
from kd_lightning.run.mistake import CONF, MISTAKES, sentence
from kd_lightning.run.sweep import Found, keep_result
from kd_lightning.run.typed import program, whole


def run_chain(cfg: DictConfig, overrides: list[str], callbacks: dict[str, Any] | None = None) -> Found | None:
    """Run the stages that are not there yet; returns what the named one found, in the first of several processes.

    callbacks: further ones of the named stage, which are no part of what its artifact is made of.
    """
    from kd_lightning.run.chain import finished, plan

    chain = plan(cfg, overrides)
    for run in chain.runs:
        if run.setting == chain.setting:
            run.callback.update(callbacks or {})
    from lightning.pytorch.utilities import rank_zero_only
    from transformers.utils.logging import disable_progress_bar

    from kd_lightning.run.rehearsal import rehearse
    from kd_lightning.run.report import show_estimates, show_plan, show_table
    from kd_lightning.run.stage import make

    disable_progress_bar()  # of transformers' loading and saving, which takes no time
    if rank_zero_only.rank == 0:
        show_plan(chain)
    coming = [run for run in chain.runs if not finished(run)]
    if coming:
        found = rehearse(coming)
        if rank_zero_only.rank == 0:
            show_estimates(coming, found)
    if cfg.dry_run:
        return None
    for run in chain.runs:
        make(run, shlex.join([*program(), *overrides]), chain)
    return show_table(chain) if rank_zero_only.rank == 0 else None


def job(cfg: DictConfig) -> float | None:
    """One job, of Hydra's: a chain or a search. Returns what it found."""
    began, overrides = time.monotonic(), list(HydraConfig.get().overrides.task)
    try:
        if "hparams_search" in cfg:
            from kd_lightning.run.search import search

            return search(cfg, overrides, run_chain)
        found = run_chain(cfg, overrides)
    except MISTAKES as mistake:
        if HydraConfig.get().mode == RunMode.RUN:
            sys.exit(f"{program()[-1]}: {sentence(mistake)}")
        raise  # run.sweep.Summary notes it, and the sweep's other jobs go on
    if found is None:
        return None
    keep_result(Path(HydraConfig.get().runtime.output_dir), overrides, time.monotonic() - began, found)
    return found.value


def main() -> None:
    """The command line."""
    SIGNALS.install()
    keep_freed_memory()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here, and are said in one sentence
    sys.argv[1:] = map(whole, sys.argv[1:])
    try:
        hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")(job)()
    except MISTAKES as mistake:
        sys.exit(f"{program()[-1]}: {sentence(mistake)}")
    except OSError as error:
        if error.errno not in WHY:
            raise
        what, why = error.filename or "A file of this run", WHY[error.errno]
        folders = "hydra.run.dir=, hydra.sweep.dir=, artifacts=, cache="
        sys.exit(f"{program()[-1]}: {what} cannot be written: {why}. Change that or choose other folders ({folders}).")
    except Interrupted as stopped:
        say(stopped)
        raise


if __name__ == "__main__":
    main()
