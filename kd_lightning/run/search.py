"""A search over settings with Optuna: `python train.py hparams_search=tinybert`.

Trials are chains like any other: what they share is trained once, and what one found lies in `<folder>/<number>/result.json`.
The study is `study.db` there, an SQLite file, and the same command goes on with it, from as many processes as one likes.
"""

import importlib.util
import math
import os
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from kd_lightning.keep import lock
from kd_lightning.run.chain import plan
from kd_lightning.run.mistake import MISTAKES, sentence
from kd_lightning.run.sweep import Found, keep_result, lower_is_better, summarise
from kd_lightning.run.typed import program

if TYPE_CHECKING:
    import optuna

NAME, ABOUT, KILLED = "search", "about", "killed"
KINDS = ({"choices"}, {"low", "high"}, {"low", "high", "log"})
Chain = Callable[[DictConfig, list[str], dict[str, Any]], Found | None]


def search(cfg: DictConfig, overrides: list[str], run_chain: Chain) -> float:
    """Carry out the trials that the study lacks and show it; returns the best value of the deciding metric.

    run_chain: of a configuration and its overrides, with further callbacks for the named stage. Raises ValueError for a space
    or a direction that does not fit the chain, and for a folder of another search.
    """
    try:
        import optuna
    except ImportError as error:
        raise ValueError("hparams_search: Optuna is not installed. pip install -e '.[search]' does it.") from error
    wanted = cfg.hparams_search
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // wanted.workers)))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    fixed = [word for word in overrides if not word.startswith("hparams_search")]
    chain = plan(compose("train", fixed), fixed)
    metric = next(run.metric for run in chain.runs if run.setting == chain.setting)
    known = direction(metric, wanted.direction)
    tried = [f"{name}={_first(name, about)}" for name, about in wanted.space.items()]
    plan(compose("train", [*fixed, *tried]), fixed)  # what is wrong with the space is said now
    folder = Path(wanted.folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    place = f"sqlite:///{folder / 'study.db'}"
    directions = [known, *(["minimize"] if wanted.latency else [])]
    about = {"setting": chain.setting, "seeds": cfg.seeds, "space": OmegaConf.to_container(wanted.space)}
    with lock(folder / "study"):
        names = optuna.get_all_study_names(place)
        study = optuna.create_study(storage=place, study_name=NAME, directions=directions) if NAME not in names else None
        study = study or optuna.load_study(study_name=NAME, storage=place)
        if study.user_attrs.get(ABOUT, about) != about or [way.name.lower() for way in study.directions] != directions:
            raise ValueError(
                f"hparams_search.folder={wanted.folder}: another search lies there (other settings, space or objectives). "
                "Choose another folder, or give what it was begun with."
            )
        study.set_user_attr(ABOUT, about)
    begins = program()[1:] if "-m" in program() else sys.argv[:1]
    more = [sys.executable, *begins, *sys.argv[1:], "hparams_search.workers=1"]
    others = [subprocess.Popen(more) for _ in range(wanted.workers - 1)]
    try:
        while asked := ask(study, wanted, cfg.seed, folder):
            trial, held = asked
            prune = {"_target_": "kd_lightning.callback.prune.Prune", "storage": place, "study": NAME, "metric": metric}
            callback = {"prune": prune | {"trial": trial._trial_id}} if wanted.prune and not wanted.latency else {}
            try:
                attempt(study, trial, fixed, lambda *given, added=callback: run_chain(*given, added), folder)
                Path(held.lock_file).unlink(missing_ok=True)
            finally:
                held.release()
        for other in others:
            other.wait()
    finally:
        for other in others:
            other.terminate()
    summarise(folder)
    return best(study, folder)


def direction(metric: str, given: str | None) -> str:
    """Of the deciding metric, "minimize" or "maximize"; raises ValueError where the given one contradicts."""
    known = "minimize" if lower_is_better(metric) else "maximize"
    if given not in (None, known):
        raise ValueError(f"hparams_search.direction={given}: {metric} is {known[:-1]}ed. Write {known}, or leave it out.")
    return known


def _first(name: str, about: DictConfig) -> Any:
    if set(about) not in KINDS:
        raise ValueError(
            f"hparams_search.space: {name} has {', '.join(about)}; write low and high (and log: true), or choices, and no more."
        )
    return about.choices[0] if "choices" in about else about.low


def suggest(trial: "optuna.Trial", space: DictConfig) -> None:
    for name, about in space.items():
        if "choices" in about:
            trial.suggest_categorical(name, list(about.choices))
        elif isinstance(about.low, int) and isinstance(about.high, int):
            trial.suggest_int(name, about.low, about.high, log=about.get("log", False))
        else:
            trial.suggest_float(name, about.low, about.high, log=about.get("log", False))


def ask(study: "optuna.Study", wanted: DictConfig, seed: int, folder: Path) -> "tuple[optuna.Trial, FileLock] | None":
    """The next trial and the lock that says that this process works on it; None where all have been begun. A trial whose
    process was killed is made again, with the same settings."""
    import optuna

    with lock(folder / "study"):
        trials = study.get_trials()
        for trial in trials:
            if trial.state == optuna.trial.TrialState.RUNNING and _abandoned(folder / f"{trial.number}.lock"):
                optuna.trial.Trial(study, trial._trial_id).set_user_attr(KILLED, True)
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                study.enqueue_trial(trial.params)
        trials = study.get_trials()
        begun = [t for t in trials if t.state != optuna.trial.TrialState.WAITING and KILLED not in t.user_attrs]
        if len(begun) >= wanted.trials:
            return None
        # Seeded anew each time: a study that goes on and a second worker do not draw the first trials again.
        study.sampler = optuna.samplers.TPESampler(seed=seed + len(trials))
        trial = study.ask()
        held = FileLock(folder / f"{trial.number}.lock")
        held.acquire()
        suggest(trial, wanted.space)
        return trial, held


def _abandoned(file: Path) -> bool:
    """Whether nobody holds this lock: it is free as soon as its process is dead."""
    held = FileLock(file)
    try:
        held.acquire(timeout=0)
    except Timeout:
        return False
    file.unlink(missing_ok=True)
    held.release()
    return True


def attempt(
    study: "optuna.Study", trial: "optuna.Trial", fixed: list[str], run_chain: Callable[..., Found], folder: Path
) -> None:
    """Run one trial and tell the study, and its folder, what came of it. One that fails does not end the search."""
    import optuna

    began, found, failed = time.monotonic(), None, None
    drawn = [f"{name}={value}" for name, value in trial.params.items()]
    print(f"Trial {trial.number}: {' '.join(drawn)}", flush=True)
    try:
        found = run_chain(compose("train", [*fixed, *drawn]), [*fixed, *drawn])
        values = [found.value, *([found.ms] if len(study.directions) > 1 else [])]
        if not all(value is not None and math.isfinite(value) for value in values):
            raise ValueError(f"{found.metric} or the milliseconds could not be measured.")
        study.tell(trial, values)
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except (*MISTAKES, RuntimeError) as error:  # a GPU's memory that is too small is a RuntimeError
        if not isinstance(error, MISTAKES):
            traceback.print_exception(error)
        found, failed = None, sentence(error)
        trial.set_user_attr("error", failed)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    keep_result(folder / str(trial.number), [*fixed, *drawn], time.monotonic() - began, found, failed)


def best(study: "optuna.Study", folder: Path) -> float:
    """Print the best trial, of two objectives those that no other surpasses in both, and draw the study's pictures."""
    import optuna

    complete = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    if not complete:
        return math.nan
    for trial in study.best_trials:
        found = ", ".join(f"{value:.4f}" for value in trial.values)
        print(f"Best, trial {trial.number}: {found} with {' '.join(f'{name}={value}' for name, value in trial.params.items())}")
    if importlib.util.find_spec("matplotlib") is not None:
        for file in pictures(study, folder):
            print(file)
    return study.best_trials[0].values[0]


def pictures(study: "optuna.Study", folder: Path) -> Iterator[Path]:
    """Draw how the study went, which settings mattered and how they go together; of two objectives their front."""
    import matplotlib

    matplotlib.use("Agg")
    from optuna.visualization import matplotlib as draw

    kinds = (
        [draw.plot_pareto_front]
        if len(study.directions) > 1
        else [draw.plot_optimization_history, draw.plot_slice, draw.plot_parallel_coordinate, draw.plot_param_importances]
    )
    for kind in kinds:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these pictures are experimental to Optuna
            axes = np.ravel(kind(study))
        file = folder / f"{kind.__name__.removeprefix('plot_')}.png"
        axes[0].figure.savefig(file, dpi=120, bbox_inches="tight")
        yield file
