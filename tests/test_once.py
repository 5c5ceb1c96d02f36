"""How often networks are asked about rows that are measured."""

import pytest
import torch
from torch import nn

from kd_lightning.once import Once
from kd_lightning.views import Needs, Readout, Spec, View

LOGITS, LAYER = Needs(logits=True), Needs(hidden=frozenset({1}))


class Counted(nn.Module):
    """Shows how often it was asked."""

    def __init__(self, labels=("no", "yes")) -> None:
        super().__init__()
        self.times = 0
        self.spec = Spec(layers=1, hidden=2, heads=1, vocabulary=9, labels=labels)

    def forward(self, batch, needs) -> View:
        self.times += 1
        shown = torch.full((len(batch["input_ids"]), 2), float(self.times))
        hidden = dict.fromkeys(needs.hidden, shown)
        return View(hidden, readout=(lambda rows: Readout(shown[rows])) if needs.logits else None)


def batch(first: int = 5, label: int = 0) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([[first, 6], [7, 8]]), "labels": torch.tensor([label, 1])}


def told(once: Once, network: Counted, batch, needs=LOGITS) -> float:
    return float(once(network, batch, needs).logits(torch.tensor([1])).unique())


def test_a_classifiers_logits_are_kept_for_each_batch_and_anew_after_it_has_learned():
    once, student, teacher = Once(), Counted(), Counted()
    rows = [batch(), batch(first=4), batch(label=1)]
    for network in (student, teacher):
        assert [told(once, network, row) for row in rows] == [1, 2, 3]
        assert [told(once, network, dict(row)) for row in rows] == [1, 2, 3]
    once.forget(student)
    assert [told(once, student, row) for row in rows] == [4, 5, 6]
    assert [told(once, teacher, row) for row in rows] == [1, 2, 3]


@pytest.mark.parametrize("labels", [("no", "yes"), ()])
def test_layers_and_a_vocabularys_logits_are_kept_for_the_batch_at_hand_alone(labels):
    once, network = Once(), Counted(labels)
    both = LOGITS | LAYER
    view = once(network, batch(), both)
    assert once(network, batch(), LAYER).hidden[1] is view.hidden[1]
    assert told(once, network, batch()) == 1
    assert told(once, network, batch(first=4), both) == 2
    assert float(once(network, batch(), both).hidden[1].unique()) == 3
    assert told(once, network, batch(first=4)) == (2 if labels else 4)


def test_under_autocast_a_network_is_asked_for_itself():
    once, network = Once(), Counted()
    with torch.autocast("cpu", torch.bfloat16):
        assert told(once, network, batch()) == 1
    assert told(once, network, batch()) == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert told(once, network, batch()) == 1


def test_more_logits_than_there_is_room_for_are_asked_for_again(monkeypatch):
    monkeypatch.setattr("kd_lightning.once.KEPT", 10)  # two batches of two rows and two classes
    once, network = Once(), Counted()
    rows = [batch(first=first) for first in (1, 2, 3, 4)]
    assert [told(once, network, row) for row in rows] == [1, 2, 3, 4]
    assert [told(once, network, row) for row in rows] == [1, 2, 5, 6]
