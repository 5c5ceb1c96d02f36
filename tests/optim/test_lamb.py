"""LAMB against the paper's equations in NumPy, and as the command line makes it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from kd_lightning.optim.lamb import Lamb

CONF = Path(__file__).parents[2] / "conf"
DECAY = 0.01


def steps(x: np.ndarray, gradients: list[np.ndarray], rate: float, decay: float) -> list[np.ndarray]:
    """Algorithm 2 of the paper without its bias correction, in float64: x after each step."""
    m, v, found = 0.0, 0.0, []
    for g in gradients:
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        update = m / (np.sqrt(v) + 1e-6) + decay * x
        trust = np.sqrt((x**2).sum() / (update**2).sum()) if x.ndim == 2 else 1.0
        x = x - rate * trust * update
        found.append(x)
    return found


def made(*shapes: tuple[int, ...]) -> tuple[list[torch.nn.Parameter], list[list[np.ndarray]]]:
    """Parameters, and four gradients for each, of sizes from 1e-3 to 10."""
    chance = np.random.default_rng(0)
    sizes = [1.0, 1e-3, 10.0, 0.1]
    parameters = [torch.nn.Parameter(torch.tensor(chance.normal(size=shape))) for shape in shapes]
    return parameters, [[size * chance.normal(size=shape) for size in sizes] for shape in shapes]


def test_several_steps_are_the_papers_on_matrices_and_adams_on_vectors():
    parameters, gradients = made((3, 4), (5,))
    groups = [{"params": [parameters[0]], "weight_decay": DECAY}, {"params": [parameters[1]], "weight_decay": 0.0}]
    optimizer = Lamb(groups, lr=0.1, betas=(0.9, 0.999), eps=1e-6)
    begun = [parameter.detach().numpy().copy() for parameter in parameters]
    expected = [steps(x, of, 0.1, decay) for x, of, decay in zip(begun, gradients, (DECAY, 0.0), strict=True)]
    for number in range(4):
        for parameter, of in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(of[number])
        optimizer.step()
        for parameter, of in zip(parameters, expected, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), of[number], rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e4])
def test_a_matrix_moves_by_the_rate_of_its_own_length_whatever_the_gradient(scale):
    (matrix,), (gradients,) = made((6, 2))
    before = matrix.detach().clone()
    matrix.grad = torch.tensor(scale * gradients[0])
    Lamb([matrix], lr=0.03, betas=(0.9, 0.999), eps=1e-6, weight_decay=DECAY).step()
    assert (matrix - before).norm().item() == pytest.approx(0.03 * before.norm().item(), rel=1e-9)


def test_a_matrix_of_zeros_learns_and_one_without_a_gradient_stays():
    zeros, other = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.ones(2, 2))
    zeros.grad = torch.ones(2, 2)
    Lamb([zeros, other], lr=0.1, betas=(0.9, 0.999), eps=0.0).step()
    torch.testing.assert_close(zeros.detach(), torch.full((2, 2), -0.1 * 0.1 / 0.001**0.5))
    assert other.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(("decay", "expected"), [(DECAY, (2.647002, 3.645892)), (0.0, (2.646449, 3.646444))])
def test_the_first_step_of_the_choice_lamb_is_the_releases(decay, expected):
    """Check H of MobileBERT's spec: with decay the trust ratio is 1.105844."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["method=finetune", "optim=lamb", "stages.task.optim.lr=0.1"])
        optim = instantiate(cfg.stages.task.optim, _convert_="all")
    parameter = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    given = {name: optim[name] for name in ("lr", "betas", "eps")}
    optimizer = optim["optimizer"]([{"params": [parameter], "weight_decay": decay}], **given)
    parameter.grad = torch.tensor([[0.6, 0.8]])
    optimizer.step()
    assert parameter[0].tolist() == pytest.approx(expected, abs=2e-6)
