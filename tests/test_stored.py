import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import DataLoader

from kd_lightning.stored import StoredTeacher
from kd_lightning.views import Needs

LABELS = ("yes", "no", "maybe")
LENGTHS = np.array([5, 9, 3, 7, 7, 4, 8])
NEEDS = Needs(hidden=frozenset({0, 3}), attention=frozenset({2}), logits=True)


def batches(order: list[list[int]], shift: int = 0) -> DataLoader:
    """Rows whose words follow from their number, in batches of this order."""
    made = []
    for index in order:
        lengths = torch.from_numpy(LENGTHS[index])
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        words = 5 + (torch.tensor(index)[:, None] * 11 + torch.arange(mask.shape[1]) * 3 + shift) % 90
        made.append({"index": torch.tensor(index), "input_ids": words * mask, "attention_mask": mask})
    return DataLoader(made, batch_size=None)


BY_LENGTH = [[2, 5, 0], [3, 4], [6, 1]]


def store(teacher, needs, rows, lengths, cache) -> StoredTeacher:
    made = StoredTeacher(teacher)
    made.store(needs, rows, lengths, cache)
    return made


@pytest.fixture
def teacher(make_encoder):
    return make_encoder(labels=LABELS).requires_grad_(False).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_stored_is_what_the_teacher_shows(teacher, tmp_path, dtype):
    stored = store(teacher.to(dtype), NEEDS, batches(BY_LENGTH), LENGTHS, str(tmp_path))
    assert stored.spec == replace(teacher.spec, vocabulary_id="")
    assert list(stored.parameters()) == []
    tolerance = {"rtol": 0, "atol": 0} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    order = BY_LENGTH if dtype == torch.bfloat16 else [[6, 0, 3], [1, 2, 4, 5]]  # bfloat16 rounds with the padding
    for batch in batches(order):
        expected, found = teacher(batch, NEEDS), stored(batch, NEEDS)
        real = batch["attention_mask"].bool()
        rows = torch.tensor([1, 0])
        assert_close(found.logits(rows), expected.logits(rows).float(), **tolerance)
        assert set(found.hidden) == {0, 3}
        assert set(found.attention) == {2}
        for k in (0, 3):
            assert_close(found.hidden[k][real], expected.hidden[k][real], **tolerance)
            assert not found.hidden[k][~real].any()
        for ours, theirs in zip(found.attention[2], expected.attention[2], strict=True):
            assert ours.shape == theirs.shape
            assert_close(ours.transpose(1, 2)[real], theirs.transpose(1, 2)[real], **tolerance)


def test_a_second_run_asks_no_teacher(teacher, tmp_path, monkeypatch):
    first = store(teacher, NEEDS, batches(BY_LENGTH), LENGTHS, str(tmp_path))
    monkeypatch.setattr(teacher, "forward", None)
    again = store(teacher, NEEDS, batches(BY_LENGTH), LENGTHS, str(tmp_path))
    (batch,) = batches([[4, 1]])
    assert torch.equal(first(batch, NEEDS).logits(torch.arange(2)), again(batch, NEEDS).logits(torch.arange(2)))


@pytest.mark.parametrize("change", ["weights", "precision", "words", "needs"])
def test_what_belongs_to_another_teacher_or_other_data_is_not_found(teacher, tmp_path, change):
    store(teacher, NEEDS, batches(BY_LENGTH), LENGTHS, str(tmp_path))
    needs, shift = NEEDS, 0
    if change == "weights":
        next(teacher.parameters()).view(-1)[3] += 1e-3
    elif change == "precision":
        teacher.bfloat16()
    elif change == "words":
        shift = 1
    else:
        needs = Needs(logits=True)
    stored = store(teacher, needs, batches(BY_LENGTH, shift), LENGTHS, str(tmp_path))
    assert len(list(tmp_path.glob("teacher-*"))) == 2
    (batch,) = batches([[0, 3]], shift)
    rows = torch.arange(2)
    assert_close(stored(batch, needs).logits(rows), teacher(batch, needs).logits(rows).float(), rtol=2e-2, atol=2e-2)


def test_only_logits_take_little_room(teacher, tmp_path, capsys):
    store(teacher, Needs(logits=True), batches(BY_LENGTH), LENGTHS, str(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"lengths.npy", "logits.npy"}
    assert np.load(folder / "logits.npy").shape == (7, 3)
    assert "7 rows (logits): 0.0 MB" in capsys.readouterr().out


def test_an_interruption_leaves_nothing_behind(teacher, tmp_path, monkeypatch):
    asked = []
    forward = teacher.forward

    def interrupted(batch, needs):
        asked.append(batch)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return forward(batch, needs)

    monkeypatch.setattr(teacher, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store(teacher, NEEDS, batches(BY_LENGTH), LENGTHS, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_disk_is_refused_before_anything_is_written(teacher, tmp_path, monkeypatch):
    """43 tokens of two hidden layers and a query and a key, 32 wide, and 7 rows of 3 logits, 4 bytes each: 22 kB."""
    size = 4 * (43 * 4 * 32 + 7 * 3)
    for free, enough in ((size, True), (size - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
        folder = tmp_path / str(free)
        if enough:
            store(teacher, NEEDS, batches(BY_LENGTH), LENGTHS, str(folder))
        else:
            with pytest.raises(ValueError, match=r"teacher.stored=true: .* GB are to be written .* are free"):
                store(teacher, NEEDS, batches(BY_LENGTH), LENGTHS, str(folder))
            assert list(folder.iterdir()) == []
