"""Check H of MobileBERT's spec on `optim=lamb`, which needs the extra `lamb`."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize(("decay", "expected"), [(0.01, (2.647002, 3.645892)), (0.0, (2.683789, 3.683784))])
def test_the_first_step_is_the_releases(decay, expected):
    """A matrix gets the trust ratio 1.105844 and decays; a bias or norm does neither."""
    pytest.importorskip("timm.optim", reason="pip install -e '.[lamb]'")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["method=finetune", "optim=lamb", "stages.task.optim.lr=0.1"])
        optim = instantiate(cfg.stages.task.optim, _convert_="all")
    parameter = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = optim["optimizer"]([{"params": [parameter], "weight_decay": decay}])
    parameter.grad = torch.tensor([0.6, 0.8])
    optimizer.step()
    assert parameter.tolist() == pytest.approx(expected, abs=2e-6)
