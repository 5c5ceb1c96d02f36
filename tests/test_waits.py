"""A training step never waits for a GPU. On the meta device there are no values, so that whoever asks for one fails: there a
step runs as it does on a card, where the host would stop until the card has computed what is asked for."""

import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from pairs import all_pairs, material

from kd_lightning.run.stage import build, store
from kd_lightning.teacher.stored import StoredTeacher

META = torch.device("meta")
# AdaBERT packs its batches by a look at the mask; the others learn from labels or masked words alone, as finetune does.
LEFT_OUT = ("adabert", "-teacher", "-baseline", "-baseline_general")


@pytest.fixture(scope="module")
def steps(tmp_path_factory, make_encoder, make_bottleneck_pair) -> dict[str, tuple]:
    """Of each stage the distiller, its data, and a batch on the host: one with padding (True) and one without."""
    folder = tmp_path_factory.mktemp("waits")
    material(folder, make_encoder, make_bottleneck_pair)
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, run in all_pairs(folder).items():
            if name.startswith(LEFT_OUT[0]) or name.endswith(LEFT_OUT[1:]):
                continue
            distiller, data = build(run)
            data.prepare_data()
            data.setup("fit")
            if isinstance(distiller.teacher, StoredTeacher):
                store(run, distiller, data, SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu"))))
            by_padding = {len(batch["real"]) < batch["attention_mask"].numel(): batch for batch in data.train_dataloader()}
            found[name] = distiller.train(), data, by_padding
    return found


def test_a_step_asks_the_device_for_nothing(steps, monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # the meta device knows none
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    seen = set()
    for name, (distiller, data, batches) in steps.items():
        distiller.to(META)
        for batch in batches.values():
            there = data.transfer_batch_to_device(batch, META, 0)
            loss, _ = distiller.objective(*distiller.views(there), there)
            loss.backward()
            assert loss.device == META, name
        seen |= batches.keys()
    assert len(steps) > 12
    assert seen == {True, False}
