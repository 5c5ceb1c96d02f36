"""The temperatures of specs/adabert.md, check F."""

import pytest

from kd_lightning.callback.anneal import exponential


@pytest.mark.parametrize(("epoch", "expected"), [(0, 1), (10, 0.8187), (40, 0.4493), (79, 0.2060), (81, 0.2)])
def test_the_pytorch_codes_temperature_falls_by_epochs_to_a_floor(epoch, expected):
    assert exponential(epoch, epochs=80, fall=1.6, floor=0.2) == pytest.approx(expected, abs=5e-5)
