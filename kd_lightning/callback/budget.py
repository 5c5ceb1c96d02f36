"""How long a stage trains, by how many rows there are."""

import lightning as L


class Budget(L.Callback):
    """Says how many updates a stage takes where neither trainer.max_epochs nor trainer.max_steps does (both are -1).

    A task of 500 rows is seen many times, one of 500,000 not even once. epochs: as long as the two bounds allow it. least,
    most: updates. validations: in all, at equal distances.
    """

    def __init__(self, *, epochs: float, least: int, most: int, validations: int) -> None:
        if not (epochs > 0 and 1 <= least <= most and validations >= 1):
            raise ValueError(
                f"callback.budget: epochs={epochs}, least={least}, most={most}, validations={validations} are given; all are "
                "above 0, and least is not above most."
            )
        self.epochs, self.least, self.most, self.validations = epochs, least, most, validations

    def planned(self, batches: int) -> tuple[int, int]:
        """Updates in all, and between two validations. batches: updates of one epoch. The last update is validated."""
        updates = min(max(round(self.epochs * batches), self.least), self.most)
        interval = -(-updates // self.validations)
        return interval * self.validations, interval

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and (trainer.max_epochs, trainer.max_steps) == (-1, -1):
            share = trainer.accumulate_grad_batches
            batches = -(-len(trainer.datamodule.train_dataloader()) // share)
            updates, interval = self.planned(batches)
            trainer.fit_loop.epoch_loop.max_steps = updates
            trainer.val_check_interval, trainer.check_val_every_n_epoch = interval * share, None
