import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.testing import assert_close
from torch.utils.data import DataLoader

from kd_lightning.objective import Objective
from kd_lightning.teacher.stored import StoredTeacher
from kd_lightning.terms import AttentionMatch, HiddenMatch, all_positions
from kd_lightning.views import Needs

LABELS = ("yes", "no", "maybe")
LENGTHS = (5, 9, 3, 7, 7, 4, 8)
NEEDS = Needs(hidden=frozenset({0, 3}), attention=frozenset({2}), logits=True)


def rows(lengths: Sequence[int] = LENGTHS) -> dict[str, list[list[int]]]:
    """Words that follow from their place, one row after the other."""
    words = iter(range(10**6))
    return {"input_ids": [[5 + next(words) * 11 % 90 for _ in range(n)] for n in lengths]}


def batches(order: list[list[int]], data: dict[str, list[list[int]]] | None = None) -> DataLoader:
    """Rows in batches of this order."""
    made = []
    for index in order:
        padded = {
            name: pad_sequence([torch.tensor(column[row]) for row in index], batch_first=True)
            for name, column in (data or rows()).items()
        }
        made.append({"index": torch.tensor(index), "attention_mask": (padded["input_ids"] > 0).long(), **padded})
    return DataLoader(made, batch_size=None)


TOKENS = pa.table(rows())
BY_LENGTH = [[2, 5, 0], [3, 4], [6, 1]]


def store(teacher, needs, rows, tokens, cache) -> StoredTeacher:
    made = StoredTeacher(teacher)
    made.store(needs, SimpleNamespace(every_row=lambda: (rows, tokens)), cache)
    return made


@pytest.fixture
def teacher(make_encoder):
    return make_encoder(labels=LABELS).requires_grad_(False).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_stored_is_what_the_teacher_shows(teacher, tmp_path, dtype):
    stored = store(teacher.to(dtype), NEEDS, batches(BY_LENGTH), TOKENS, str(tmp_path))
    assert stored.spec == replace(teacher.spec, stored=True)
    assert list(stored.parameters()) == []
    tolerance = {"rtol": 0, "atol": 0} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    order = BY_LENGTH if dtype == torch.bfloat16 else [[6, 0, 3], [1, 2, 4, 5]]  # bfloat16 rounds with the padding
    for batch in batches(order):
        expected, found = teacher(batch, NEEDS), stored(batch, NEEDS)
        real = batch["attention_mask"].bool()
        turned = torch.tensor([1, 0])
        assert_close(found.logits(turned), expected.logits(turned).float(), **tolerance)
        assert set(found.hidden) == {0, 3}
        assert set(found.attention) == {2}
        for k in (0, 3):
            assert_close(found.hidden[k][real], expected.hidden[k][real], **tolerance)
            assert not found.hidden[k][~real].any()
        for ours, theirs in zip(found.attention[2], expected.attention[2], strict=True):
            assert ours.shape == theirs.shape
            assert_close(ours.transpose(1, 2)[real], theirs.transpose(1, 2)[real], **tolerance)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        (HiddenMatch(1, layers="uniform", rows=all_positions), "Set method.valid_only=true, or leave teacher.stored=false."),
        (AttentionMatch(1, layers="uniform", valid_only=False), "Set method.valid_only=true, or leave teacher.stored=false."),
        (HiddenMatch(1, layers="uniform"), None),
        (AttentionMatch(1, layers="uniform", valid_only=True), None),
    ],
)
def test_an_objective_that_reads_padding_refuses_it_where_the_teacher_itself_serves(make_encoder, teacher, layers, sentence):
    student, objective = make_encoder(labels=LABELS, layers=2), Objective({"layers": layers})
    objective.bind(student.spec, teacher.spec)
    if sentence is None:
        objective.bind(student.spec, StoredTeacher(teacher).spec)
    else:
        with pytest.raises(ValueError, match=re.escape(sentence)):
            objective.bind(student.spec, StoredTeacher(teacher).spec)


def test_a_second_run_asks_no_teacher_and_makes_no_batch(teacher, tmp_path, monkeypatch):
    first = store(teacher, NEEDS, batches(BY_LENGTH), TOKENS, str(tmp_path))
    monkeypatch.setattr(teacher, "forward", None)
    parts = pa.concat_tables([TOKENS[:2], TOKENS[2:]])  # however the same rows lie in memory
    again = store(teacher, NEEDS, None, parts, str(tmp_path))
    (batch,) = batches([[4, 1]])
    assert torch.equal(first(batch, NEEDS).logits(torch.arange(2)), again(batch, NEEDS).logits(torch.arange(2)))


def change_a_weight(teacher, needs, data):
    next(teacher.parameters()).view(-1)[3] += 1e-3


def change_the_precision(teacher, needs, data):
    teacher.bfloat16()


def change_what_is_needed(teacher, needs, data):
    return Needs(logits=True)


def change_a_word(teacher, needs, data):
    data["input_ids"][6][-1] = 96


def change_the_order(teacher, needs, data):
    """Rows of the same length."""
    data["input_ids"][3], data["input_ids"][4] = data["input_ids"][4], data["input_ids"][3]


def change_where_a_row_ends(teacher, needs, data):
    """The same words in the same order."""
    data |= rows((5, 9, 3, 8, 6, 4, 8))


def change_a_segment(teacher, needs, data):
    data["token_type_ids"] = [[0] * (n - 1) + [1] for n in LENGTHS]


@pytest.mark.parametrize("change", [value for name, value in list(globals().items()) if name.startswith("change_")])
def test_what_belongs_to_another_teacher_or_other_data_is_not_found(teacher, tmp_path, change):
    store(teacher, NEEDS, batches(BY_LENGTH), TOKENS, str(tmp_path))
    data = rows()
    needs = change(teacher, NEEDS, data) or NEEDS
    stored = store(teacher, needs, batches(BY_LENGTH, data), pa.table(data), str(tmp_path))
    assert len(list(tmp_path.glob("teacher-*"))) == 2
    (batch,) = batches([[0, 3]], data)
    both = torch.arange(2)
    assert_close(stored(batch, needs).logits(both), teacher(batch, needs).logits(both).float(), rtol=2e-2, atol=2e-2)


def test_a_flipped_bit_in_what_was_stored_is_told_and_the_teacher_asked_again(teacher, make_encoder, tmp_path, capsys):
    needs = Needs(logits=True)
    whole = store(teacher, needs, batches(BY_LENGTH), TOKENS, str(tmp_path)).arrays["logits"].tolist()
    (file,) = tmp_path.glob("*/logits.npy")
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    capsys.readouterr()
    again = store(make_encoder(labels=LABELS).eval(), needs, batches(BY_LENGTH), TOKENS, str(tmp_path))
    assert again.arrays["logits"].tolist() == whole
    assert f"{file} is not what manifest.json says of it" in capsys.readouterr().out


def test_only_logits_take_little_room(teacher, tmp_path, capsys):
    store(teacher, Needs(logits=True), batches(BY_LENGTH), TOKENS, str(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"lengths.npy", "logits.npy", "manifest.json"}
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
        store(teacher, NEEDS, batches(BY_LENGTH), TOKENS, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_disk_is_refused_before_anything_is_written(teacher, tmp_path, monkeypatch):
    """43 tokens of two hidden layers and a query and a key, 32 wide, and 7 rows of 3 logits, 4 bytes each: 22 kB."""
    size = 4 * (43 * 4 * 32 + 7 * 3)
    for free, enough in ((size, True), (size - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
        folder = tmp_path / str(free)
        if enough:
            store(teacher, NEEDS, batches(BY_LENGTH), TOKENS, str(folder))
        else:
            with pytest.raises(ValueError, match=r"teacher.stored=true: .* GB are to be written .* are free"):
                store(teacher, NEEDS, batches(BY_LENGTH), TOKENS, str(folder))
            assert list(folder.iterdir()) == []
