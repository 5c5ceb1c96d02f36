import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kd_lightning.dropout import Dropout, dropout, replace_dropout

COUNT = 400_003  # no multiple of four, which is how many share a word of random bits


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_is_dropped_and_the_rest_keeps_the_mean(probability, dtype):
    torch.manual_seed(0)
    x = torch.full((COUNT,), 2.0, dtype=dtype, requires_grad=True)
    out = dropout(x, probability)
    kept = out != 0
    deviation = (probability * (1 - probability) / COUNT) ** 0.5
    assert abs(kept.double().mean().item() - (1 - probability)) < 6 * deviation
    assert_close(
        out[kept].unique(),
        torch.tensor([2 / (1 - probability)], dtype=dtype),
        rtol=1e-2 if dtype != torch.float32 else 1e-4,
        atol=0,
    )
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(slope == 0, ~kept)
    assert_close(slope, out / 2)


def test_elements_are_dropped_independently_of_their_neighbours_and_of_the_last_draw():
    torch.manual_seed(0)
    first, second = (dropout(torch.ones(COUNT), 0.3) == 0 for _ in range(2))
    for ours, other in ((first[1:], first[:-1]), (first[4:], first[:-4]), (first, second)):
        assert abs((ours & other).double().mean().item() - 0.09) < 0.003  # 6 standard deviations


def test_a_generator_that_is_put_back_drops_the_same():
    state = torch.get_rng_state()
    first = dropout(torch.ones(100), 0.5)
    other = dropout(torch.ones(100), 0.5)
    torch.set_rng_state(state)
    assert torch.equal(dropout(torch.ones(100), 0.5), first)
    assert not torch.equal(first, other)


def test_the_ends_drop_nothing_and_all():
    assert torch.equal(dropout(torch.ones(9), 0.0), torch.ones(9))
    assert torch.equal(dropout(torch.ones(9), 1.0), torch.zeros(9))


def test_an_encoder_drops_out_with_it_and_not_when_it_is_asleep(make_encoder):
    encoder = make_encoder("bert", dropout=0.25)
    found = [module for module in encoder.modules() if isinstance(module, nn.Dropout)]
    assert {type(module) for module in found} == {Dropout}
    assert {module.p for module in found} == {0.25}
    awake, asleep = found[0].train()(torch.ones(1000)), found[0].eval()(torch.ones(1000))
    assert (awake == 0).any()
    assert torch.equal(asleep, torch.ones(1000))


def test_other_kinds_of_dropout_stay():
    model = nn.Sequential(nn.Dropout2d(0.1), nn.Sequential(nn.Dropout(0.2), nn.Dropout(0.3).eval()))
    replace_dropout(model)
    assert type(model[0]) is nn.Dropout2d
    assert [type(module) for module in model[1]] == [Dropout, Dropout]
    assert [module.training for module in model[1]] == [True, False]
