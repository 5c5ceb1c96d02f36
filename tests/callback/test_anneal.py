"""The temperatures of specs/adabert.md, check F."""

import pytest

from kd_lightning.callback.anneal import exponential, stairs


@pytest.mark.parametrize(("epoch", "expected"), [(0, 1), (10, 0.8187), (40, 0.4493), (79, 0.2060), (81, 0.2)])
def test_the_pytorch_codes_temperature_falls_by_epochs_to_a_floor(epoch, expected):
    assert exponential(epoch, 99, epochs=80, fall=1.6, floor=0.2) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("steps", "step", "expected"),
    [(18_000, 99, 1.0), (18_000, 9_000, 0.447214), (18_000, 18_000, 0.2), (1_568, 100, 0.902449), (1_568, 1_568, 0.214458)],
)
def test_easytransfers_temperature_falls_by_stairs(steps, step, expected):
    assert stairs(0, step, steps=steps, every=100, end=0.2) == pytest.approx(expected, abs=1e-6)
