"""What the loggers take down of an update, against plain PyTorch."""

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from kd_lightning.callback.optimisation import Optimisation
from kd_lightning.callback.speed import Speed, _peak
from kd_lightning.method.distilbert import DistilBERT


class Keep(L.Callback):
    """The gradients before they are clipped, of each update."""

    def __init__(self):
        self.norms, self.batches = [], 0

    def on_after_backward(self, trainer, module):
        given = [p.grad.flatten() for p in module.student.parameters() if p.grad is not None]
        self.norms.append(float(torch.cat(given).norm()))


@pytest.fixture
def logged(tmp_path, make_encoder, engine, fit, corpus_batch):
    """Six updates of which every third is taken down, with gradients clipped to far less than they are."""

    def make(*callbacks, **more):
        terms = {"temperature": 2.0, "soft": 5.0, "mlm": 2.0, "cosine": 1.0, "masked_only": True}
        distiller = DistilBERT(**terms, **engine(make_encoder(layers=2), make_encoder(seed=1)))
        logger = CSVLogger(tmp_path, name="", version="")
        batches = [corpus_batch(seed=i) for i in range(6)]
        given = {"logger": logger, "callbacks": callbacks, "log_every_n_steps": 3, "gradient_clip_val": 1e-3} | more
        fit(distiller, batches, **given)
        lines = (tmp_path / "metrics.csv").read_text().splitlines()
        names = lines[0].split(",")
        return [{k: float(v) for k, v in zip(names, line.split(","), strict=True) if v} for line in lines[1:]]

    return make


def test_the_shares_are_the_weighted_terms_over_their_sum_and_the_norm_is_from_before_the_clipping(logged):
    keep = Keep()
    rows = logged(Optimisation(), keep)
    assert [row["step"] for row in rows] == [2, 5]
    for row in rows:
        weighted = {"soft": 5 * row["train/loss/soft"], "mlm": 2 * row["train/loss/mlm"], "cosine": row["train/loss/cosine"]}
        total = sum(weighted.values())
        assert total == pytest.approx(row["train/loss"], rel=1e-5)
        assert {name: row[f"train/share/{name}"] for name in weighted} == pytest.approx(
            {name: part / total for name, part in weighted.items()}, rel=1e-5
        )
        assert row["train/gradient_norm"] == pytest.approx(keep.norms[int(row["step"])], rel=1e-4)
        assert row["train/lr"] == pytest.approx(1e-3)


def test_with_accumulation_an_update_is_taken_down_once_with_the_gradient_of_all_its_batches(logged):
    keep = Keep()
    (row,) = logged(Optimisation(), keep, accumulate_grad_batches=2, log_every_n_steps=3)
    assert row["step"] == 2
    assert row["train/gradient_norm"] == pytest.approx(keep.norms[5], rel=1e-4)
    assert sum(value for name, value in row.items() if "share" in name) == pytest.approx(1)


def test_the_speed_counts_tokens_without_padding(logged, monkeypatch):
    """A batch has 8 + 5 + 3 tokens, and here each tick of the clock is a second: one at the start, one at each log."""
    ticks = iter(range(1000))
    monkeypatch.setattr("kd_lightning.callback.speed.time.perf_counter", lambda: next(ticks))
    rows = logged(Speed())
    assert [row["train/tokens_per_second"] for row in rows] == [3 * 16, 3 * 16]
    assert "train/mfu" not in rows[0]


def test_on_a_gpu_of_known_peak_the_share_of_it_is_taken_down(logged, monkeypatch):
    """The peak is set, and the operations are counted by PyTorch in the test too."""
    ticks = iter(range(1000))
    monkeypatch.setattr("kd_lightning.callback.speed.time.perf_counter", lambda: next(ticks))

    class Peak(Speed):
        def on_train_start(self, trainer, module):
            super().on_train_start(trainer, module)
            self.peak = 1e6

    speed = Peak()
    first, second = logged(speed)
    assert speed.operations > 0
    assert first["train/mfu"] == pytest.approx(speed.operations * 2 * 24 / 1e6)  # without the first batch, which is counted
    assert second["train/mfu"] == pytest.approx(speed.operations * 3 * 24 / 1e6)


def test_the_peak_of_an_h200_is_known_in_half_precision_and_an_unknown_cards_is_lightnings(monkeypatch):
    card = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H200")
    monkeypatch.setattr("kd_lightning.callback.speed.get_available_flops", lambda device, dtype: 7.0)
    assert _peak(card, torch.bfloat16) == 989e12  # NVIDIA's data sheet: 1,979 with sparsity, half of it without
    assert _peak(card, torch.float32) == 7.0
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA Something")
    assert _peak(card, torch.bfloat16) == 7.0
    assert _peak(torch.device("cpu"), torch.bfloat16) is None
