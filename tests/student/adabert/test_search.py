"""AdaBERT's search network: costs, draws, and the fast step against the plain sum over all operations and depths."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from kd_lightning.student.adabert.architecture import EDGES, OPERATIONS, Architecture
from kd_lightning.student.adabert.cell import Places, run_cells
from kd_lightning.student.adabert.network import AdaBertConfig, represent
from kd_lightning.student.adabert.search import LARGEST, Choice, Draw, SearchNetwork, costs, efficiency
from kd_lightning.views import Needs


def one_hot(operations: list[str], cells: int, most: int = 8) -> Draw:
    edges = F.one_hot(torch.tensor([OPERATIONS.index(name) for name in operations]), len(OPERATIONS)).float()
    return Draw(edges.requires_grad_(), F.one_hot(torch.tensor(cells - 1), most).float().requires_grad_())


@pytest.fixture
def network(tokenizer) -> SearchNetwork:
    """Choices are far apart: one is the most probable."""
    torch.manual_seed(0)
    shape = {"vocab_size": 97, "channels": 6, "num_labels": 3, "dropout": 0.0, "max_position_embeddings": 64, "pair": True}
    made = SearchNetwork(AdaBertConfig(architecture=LARGEST.as_dict(), **shape), 3, tokenizer)
    for parameter in (*made.choice.parameters(), *made.body.blends):
        parameter.data.normal_()
    return made


def test_the_costs_are_the_constants_that_easytransfer_has_typed_in():
    conv = [0.09987373, 0.10367607, 0.10762545]
    expected = [*conv, *conv, 0.09442003, 0.09442003, 0.09440472, 0.09440472]
    found = costs(128, 128)
    assert_close(found, torch.tensor(expected), rtol=0, atol=1e-8)
    assert float(found.double().sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("operation", "cells", "most", "expected"),
    [
        ("conv_3", 8, 8, 0.09987373),
        ("conv_3", 4, 8, 0.049936865),
        ("conv_3", 4, 4, 0.049936865),
        ("zero", 8, 8, 0.09440472),
        ("conv_7", 3, 8, 0.0403595),
        ("conv_7", 3, 4, 0.0403595),
    ],
)
def test_efficiency_is_the_share_of_the_papers_cells_times_the_mean_cost(operation, cells, most, expected):
    """A cell costs the same whether there could be four or eight."""
    found = efficiency(one_hot([operation] * 9, cells, most), costs(128, 128)).detach()
    assert float(found) == pytest.approx(expected, abs=1e-7)


def test_efficiency_of_equal_shares_is_a_tenth_and_moves_operations_and_depth():
    edges, depth = torch.full((9, 10), 0.1, requires_grad=True), F.one_hot(torch.tensor(7), 8).float().requires_grad_()
    found = efficiency(Draw(edges, depth), costs(128, 128))
    assert float(found.detach()) == pytest.approx(0.1, abs=1e-7)
    found.backward()
    assert edges.grad.ne(0).all()
    assert_close(depth.grad, torch.arange(1.0, 9) / 80)


def test_a_choice_has_ninety_numbers_for_operations_and_one_for_each_depth():
    choice = Choice(8)
    assert choice.edges.numel() == 90
    assert choice.depth.shape == (8,)


def test_draws_are_one_hot_and_follow_the_probabilities():
    torch.manual_seed(0)
    choice = Choice(4)
    with torch.no_grad():
        choice.edges.zero_()
        choice.depth.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    drawn = [choice.draw(0.5) for _ in range(5000)]
    edges, depth = (torch.stack([getattr(draw, name).detach() for draw in drawn]) for name in ("edges", "depth"))
    assert_close(edges.max(-1).values, torch.ones(5000, 9))
    assert_close(edges.sum(-1), torch.ones(5000, 9))
    assert_close(edges.mean((0, 1)), torch.full((10,), 0.1), rtol=0, atol=0.01)
    assert_close(depth.mean(0), torch.tensor([0.1, 0.2, 0.3, 0.4]), rtol=0, atol=0.03)


def test_with_equal_losses_only_the_price_moves_the_depth_and_it_moves_it_down():
    torch.manual_seed(0)
    choice = Choice(8)
    draw = choice.draw(1.0)
    (draw.depth * torch.full((8,), 1.7)).sum().backward(retain_graph=True)
    assert_close(choice.depth.grad, torch.zeros(8))
    for _ in range(200):
        efficiency(choice.draw(1.0), costs(128, 128)).backward()
    assert choice.depth.grad[0] < 0 < choice.depth.grad[7]  # a step against it prefers one cell to eight


def plainly(network: SearchNetwork, batch, draw: Draw, labels) -> torch.Tensor:
    """Σ_d y_d L_d as the paper has it: every operation on every edge of every cell, and every depth, with its graph."""
    body, places = network.body, Places(batch["attention_mask"])

    def step(cell):
        def run(name, x):
            weights = draw.edges[EDGES.index((int(name[0]), int(name[2])))]
            outputs = [cell.edges[name][o](x, places) for o in OPERATIONS[:-1]] + [torch.zeros_like(x)]
            return torch.einsum("o,onc->nc", weights, torch.stack(outputs))

        return run

    inputs = body.embeddings(batch["input_ids"], batch["token_type_ids"], places)
    means = [places.mean(x) for x in run_cells([step(cell) for cell in body.cells], body.cells, *inputs)]
    losses = []
    for depth, blend in enumerate(body.blends, start=1):
        losses.append(F.cross_entropy(body.classifier(represent(means[: depth + 1], blend)), labels))
    return (draw.depth * torch.stack(losses)).sum()


@pytest.mark.parametrize("cells", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_step_has_the_loss_and_the_gradients_of_the_plain_sum(network, task_batch, cells, seed):
    batch = task_batch(size=9, seed=seed)
    torch.manual_seed(seed)
    names = [OPERATIONS[i] for i in torch.randint(0, 10, (9,)).tolist()]
    names[seed] = "conv_5"
    ours, theirs = (one_hot(names, cells, 3) for _ in range(2))
    rows = torch.arange(9)
    losses = [F.cross_entropy(view.logits(rows), batch["labels"]) for view in network.body(batch, ours)]
    loss = (ours.depth * torch.stack(losses)).sum()
    loss.backward()
    found = {name: p.grad for name, p in network.body.named_parameters()}
    network.zero_grad()
    expected = plainly(network, batch, theirs, batch["labels"])
    expected.backward()
    assert_close(loss, expected)
    assert theirs.edges.grad.abs().max() > 1e-4
    assert_close(ours.edges.grad, theirs.edges.grad, rtol=1e-4, atol=1e-6)
    assert_close(ours.depth.grad, theirs.depth.grad)
    for name, p in network.body.named_parameters():
        zero = torch.zeros_like(p)
        assert_close(zero if found[name] is None else found[name], zero if p.grad is None else p.grad, rtol=1e-4, atol=1e-6)


def test_what_is_derived_is_the_search_network_at_that_draw_with_its_weights_and_these_batches_statistics(network, task_batch):
    batch = task_batch(size=9)
    network.derive([batch])
    architecture = network.choice.architecture()
    assert network.model.config.architecture == architecture.as_dict()
    draw = one_hot([architecture.edges.get(edge, "zero") for edge in EDGES], architecture.cells, 3)
    rows, needs = torch.arange(9), Needs(hidden=frozenset({0}), logits=True)
    expected = network.body(batch, draw)[architecture.cells - 1]
    # BatchNorm divides by N in training and keeps the variance over N - 1 for evaluation
    found, count = network(batch, needs), int(batch["attention_mask"].sum())
    assert_close(found.hidden[0], expected.hidden[0])
    for norm in (m for m in network.model.modules() if isinstance(m, nn.BatchNorm1d)):
        norm.running_var *= (count - 1) / count
    found = network(batch, needs)
    assert_close(found.logits(rows), expected.logits(rows), rtol=1e-4, atol=1e-5)
    assert set(found.hidden) == set(range(architecture.cells + 1))


def test_deriving_draws_no_random_number_and_is_no_part_of_the_network(network):
    names, state = set(network.state_dict()), torch.get_rng_state()
    network.derive([])
    assert torch.equal(torch.get_rng_state(), state)
    assert set(network.state_dict()) == names
    assert not any(name.startswith("model") for name in names)


def test_the_summary_is_of_the_probabilities_and_the_architecture_of_now():
    choice = Choice(4)
    with torch.no_grad():
        choice.edges.zero_()
        choice.edges[0, OPERATIONS.index("max_pool")] = 50.0
        choice.depth.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    found = choice.summary(128, 128)
    assert found["entropy/edges"] == pytest.approx(8 / 9 * np.log(10))
    assert found["entropy/cells"] == pytest.approx(-sum(p * np.log(p) for p in (0.1, 0.2, 0.3, 0.4)))
    assert found["cells"] == 4
    convolutions = 2 * (49_152 + 81_920 + 114_688 + 3 * 128)
    assert found["expected/parameters"] == pytest.approx(3 * 8 * (convolutions + 2) / 10)
    assert found["multiply_adds"] == 4 * (2 * 128 * 128 + 5 * (3 * 128 + 3) * 128 * 128)  # a pool, five convolutions of 3 taps
    assert found["share/max_pool"] == pytest.approx((1 + 0.8) / 9)
    assert found["edge/0-2"] == OPERATIONS.index("max_pool")
    assert found["edge/2-4"] == OPERATIONS.index("zero")  # left out: of equal edges the first two stay
    assert isinstance(choice.architecture(), Architecture)
