"""Probes on each layer of a teacher, learned from gold labels and kept with its answers."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader

from kd_lightning.teacher.probes import ProbedTeacher, learn
from kd_lightning.views import Needs

SETTINGS = {"epochs": 4, "lr": 5e-2, "batch_size": 16, "warmup": 0.1}
LENGTHS = np.array([5, 9, 3, 7, 7, 4, 8])
TOKENS = pa.table({"input_ids": [[5 + (row * 11 + place * 3) % 90 for place in range(n)] for row, n in enumerate(LENGTHS)]})
ROWS = {"train": np.arange(4), "validation": np.array([4, 5]), "unlabelled": np.array([6])}
BOTH = Needs(logits=True, probes=True)


def batches(order: list[list[int]], labels=(0, 1, 2, 0, 1, 2, -100)) -> DataLoader:
    made = []
    for index in order:
        mask = (torch.arange(9) < torch.from_numpy(LENGTHS[index])[:, None]).long()
        words = 5 + (torch.tensor(index)[:, None] * 11 + torch.arange(9) * 3) % 90
        gold = torch.tensor([labels[row] for row in index])
        made.append({"index": torch.tensor(index), "input_ids": words * mask, "attention_mask": mask, "labels": gold})
    return DataLoader(made, batch_size=None)


ALL = [[2, 5, 0], [3, 4], [6, 1]]


@pytest.fixture
def teacher(make_encoder):
    return make_encoder(labels=("a", "b", "c")).requires_grad_(False).eval()


def store(teacher, rows, cache, **other) -> ProbedTeacher:
    made = ProbedTeacher(teacher, **(SETTINGS | other))
    gold = {int(row): int(label) for batch in rows for row, label in zip(batch["index"], batch["labels"], strict=True)}
    labels = np.array([gold[row] for row in range(len(gold))])
    data = SimpleNamespace(every_row=lambda: (rows, TOKENS), numbers=lambda: ROWS, gold=lambda: labels)
    made.store(Needs(), data, str(cache))
    return made


def test_it_shows_the_teachers_logits_and_probes_on_cls_and_on_the_mean_of_the_embeddings(teacher, tmp_path):
    """With the probes learned here from what the teacher shows for one row at a time, of which only labelled ones teach."""
    needs = Needs(hidden=frozenset(range(5)), logits=True)
    features, logits = np.zeros((7, 5, 32), np.float32), torch.zeros(7, 3)
    for row in range(7):
        length = LENGTHS[row]
        ids = 5 + (row * 11 + torch.arange(length) * 3) % 90
        view = teacher({"input_ids": ids[None], "attention_mask": torch.ones(1, length, dtype=torch.long)}, needs)
        features[row] = torch.stack([view.hidden[0][0].mean(0), *(view.hidden[k][0, 0] for k in range(1, 5))])
        logits[row] = view.logits(torch.tensor([0]))[0]
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    stored = store(teacher, batches(ALL), tmp_path)
    assert_close(dict(teacher.state_dict()), before, rtol=0, atol=0)
    weight, bias = learn(features, np.array([0, 1, 2, 0, 1, 2, -100]), np.arange(4), 3, **SETTINGS)
    expected = torch.einsum("nld,ldc->nlc", torch.from_numpy(features), weight) + bias[:, 0]
    batch = next(iter(batches([[6, 0, 5]])))
    found = stored(batch, BOTH)
    assert_close(found.probes, expected[[6, 0, 5]], rtol=1e-2, atol=2e-3)  # features are kept in float16
    assert_close(found.logits(torch.tensor([2, 0])), logits[[5, 6]], rtol=1e-5, atol=1e-5)
    right = expected[[4, 5]].argmax(-1) == torch.tensor([[1], [2]])
    assert stored.accuracy == right.float().mean(0).tolist()
    assert stored(batch, Needs(logits=True)).probes is None
    assert stored.teacher is None


def test_a_probe_is_logistic_regression():
    """At its optimum, which many epochs reach, the mean of (softmax - one-hot) · feature is zero."""
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(60, 2, 3)).astype(np.float32), random.integers(0, 3, 60)
    weight, bias = learn(features, labels, np.arange(60), 3, epochs=600, lr=2e-2, batch_size=60, warmup=0.1)
    logits = torch.einsum("nld,ldc->nlc", torch.from_numpy(features), weight) + bias[:, 0]
    error = logits.softmax(-1) - F.one_hot(torch.from_numpy(labels), 3)[:, None]
    assert_close(torch.einsum("nld,nlc->ldc", torch.from_numpy(features), error) / 60, torch.zeros(2, 3, 3), rtol=0, atol=1e-3)
    assert_close(error.mean(0), torch.zeros(2, 3), rtol=0, atol=1e-3)
    assert weight.abs().max() > 0.1


def test_a_row_that_is_no_training_row_teaches_nothing(teacher, tmp_path):
    def probes(labels, folder):
        return store(teacher, batches(ALL, labels), tmp_path / folder).arrays["probes"]

    first = probes((0, 1, 2, 0, 1, 2, -100), "first")
    assert np.array_equal(first, probes((0, 1, 2, 0, 2, 0, -100), "second"))
    assert not np.array_equal(first, probes((1, 1, 2, 0, 1, 2, -100), "third"))


def test_what_is_kept_is_found_again_by_what_it_follows_from(teacher, tmp_path, make_encoder):
    first = store(teacher, batches(ALL), tmp_path)
    stamp = (first.folder / "probes.npy").stat().st_mtime_ns
    again = store(teacher, batches(ALL), tmp_path)
    assert (again.folder, (again.folder / "probes.npy").stat().st_mtime_ns) == (first.folder, stamp)
    others = [
        store(teacher, batches(ALL), tmp_path, epochs=5),
        store(teacher, batches(ALL, (1, 1, 2, 0, 1, 2, -100)), tmp_path),
        store(make_encoder(labels=("a", "b", "c"), seed=4), batches(ALL), tmp_path),
    ]
    assert len({first.folder, *(other.folder for other in others)}) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({s.folder.name for s in [first, *others]})
