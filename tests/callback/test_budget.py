"""How long a stage trains: by hand, and as the Trainer then does it."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from kd_lightning.callback.budget import Budget

BOUNDS = {"epochs": 4, "least": 300, "most": 5000, "validations": 10}


@pytest.mark.parametrize(
    ("batches", "updates", "interval"),
    [
        (10, 300, 30),  # 40 would be four epochs
        (101, 410, 41),  # 404, rounded up to ten validations
        (1250, 5000, 500),
        (2000, 5000, 500),  # 8,000 would be four epochs
    ],
)
def test_few_rows_are_seen_often_and_many_not_four_times(batches, updates, interval):
    assert Budget(**BOUNDS).planned(batches) == (updates, interval)


class Counting(L.LightningModule):
    """Trains nothing; counts updates and notes when it is validated."""

    def __init__(self):
        super().__init__()
        self.weight, self.validated = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, _):
        return self.weight * 0

    def validation_step(self, batch, _):
        if not self.trainer.sanity_checking:
            self.validated.append(self.global_step)

    def configure_optimizers(self):
        self.expected = self.trainer.estimated_stepping_batches
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Rows(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(range(12), batch_size=4)

    def val_dataloader(self):
        return DataLoader(range(4), batch_size=4)


def trained(tmp_path, **limits) -> Counting:
    module = Counting()
    settings = {"max_epochs": -1, "max_steps": -1} | limits
    budget = Budget(epochs=4, least=2, most=20, validations=4)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    L.Trainer(accelerator="cpu", callbacks=[budget], default_root_dir=tmp_path, **quiet, **settings).fit(module, Rows())
    return module


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_stage_ends_with_the_budget_and_is_validated_at_equal_distances_and_at_the_end(tmp_path):
    """Three batches an epoch, four epochs: 12 updates, four validations, three updates apart."""
    module = trained(tmp_path)
    assert (module.global_step, module.validated, module.expected) == (12, [3, 6, 9, 12], 12)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize(("said", "updates"), [({"max_steps": 5}, 5), ({"max_epochs": 1}, 3)])
def test_what_a_person_says_of_steps_or_epochs_goes_before_the_budget(said, updates, tmp_path):
    assert trained(tmp_path, **said).global_step == updates


def test_bounds_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="least=50, most=20"):
        Budget(epochs=1, least=50, most=20, validations=1)
