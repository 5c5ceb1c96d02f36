"""A trial of a search that is behind the others is stopped."""

from typing import Any

import lightning as L


class Prune(L.Callback):
    """Reports the deciding metric of each validation to a trial of an Optuna study, and raises optuna.TrialPruned where the
    pruner says so.

    storage, study: where the trial is kept. trial: its id there.
    """

    def __init__(self, *, storage: str, study: str, trial: int, metric: str) -> None:
        import optuna

        self.trial = optuna.trial.Trial(optuna.load_study(study_name=study, storage=storage), trial)
        self.metric = metric

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        import optuna

        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.trial.report(float(trainer.callback_metrics[self.metric]), trainer.global_step)
        if self.trial.should_prune():
            raise optuna.TrialPruned
