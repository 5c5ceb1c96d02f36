import math

import numpy as np
import pytest
import torch

from kd_lightning.data.batches import Batches, by_length, loader, training_batches, validation_batches

LENGTHS = np.random.default_rng(0).integers(3, 130, 203)


def collate(rows: np.ndarray, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {"rows": torch.from_numpy(rows), "draw": torch.rand(1, generator=generator)}


def group(length: int) -> int:
    """The spec's: how many of the 128 edges 3, 7, 11 ... below 512 are at most the length."""
    return sum(edge <= length for edge in range(3, 512, 4))


@pytest.mark.parametrize(
    ("length", "expected"), [(3, 1), (10, 2), (11, 3), (14, 3), (15, 4), (128, 32), (511, 128), (512, 128)]
)
def test_the_groups_are_those_of_the_spec(length, expected):
    """Two rows of neighbouring groups never share a full batch, two of one group do."""
    assert group(length) == expected
    first, last = 4 * expected - 1, 4 * expected + 2
    same = by_length(np.array([length, first, last, first - 1]), np.arange(4), 3)
    assert sorted(same[0].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 300])
def test_every_row_is_in_exactly_one_batch_and_no_batch_too_many_is_made(batch_size):
    order = np.random.default_rng(1).permutation(len(LENGTHS))
    batches = by_length(LENGTHS, order, batch_size)
    assert len(batches) == math.ceil(len(LENGTHS) / batch_size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(LENGTHS)))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}


def test_all_batches_but_the_leftovers_are_of_one_group():
    """At most batch_size - 1 rows are left over in each of the 32 groups, and they come last, in order of group."""
    batches = by_length(LENGTHS, np.arange(len(LENGTHS)), 4)
    groups = [[group(LENGTHS[row]) for row in batch] for batch in batches]
    mixed = [index for index, found in enumerate(groups) if len(set(found)) > 1]
    first = mixed[0]
    assert first > len(batches) / 3
    rest = [found for batch in groups[first:] for found in batch]
    assert rest == sorted(rest)


def test_rows_of_a_group_keep_the_order_given():
    assert [batch.tolist() for batch in by_length(np.full(5, 20), np.array([4, 2, 0, 1, 3]), 2)] == [[4, 2], [0, 1], [3]]


def contents(batches) -> list[tuple]:
    return [(tuple(batch["rows"].tolist()), batch["draw"].item()) for batch in loader(batches, 0, None)]


def test_an_epoch_is_a_function_of_seed_and_epoch_and_index():
    def epoch(number: int, seed: int = 3):
        return contents(training_batches(LENGTHS, collate, batch_size=4, seed=seed, epoch=number))

    torch.manual_seed(1)
    first = epoch(0)
    torch.manual_seed(2)
    assert epoch(0) == first
    for other in (epoch(1), epoch(0, seed=4)):
        assert other != first
        assert sorted(r for rows, _ in other for r in rows) == list(range(len(LENGTHS)))
        assert not {draw for _, draw in other} & {draw for _, draw in first}
    assert len({draw for _, draw in first}) == len(first)


def test_one_batch_alone_is_what_it_is_in_its_epoch():
    batches = training_batches(LENGTHS, collate, batch_size=4, seed=3, epoch=2)
    seventh = batches[7]
    rows, draw = contents(batches)[7]
    assert (tuple(seventh["rows"].tolist()), seventh["draw"].item()) == (rows, draw)


def test_training_batches_do_not_come_in_order_of_length():
    batches = training_batches(LENGTHS, collate, batch_size=4, seed=3, epoch=0)
    longest = [LENGTHS[batch["rows"].numpy()].max() for batch in loader(batches, 0, None)]
    assert longest[: len(longest) // 2] != sorted(longest[: len(longest) // 2])
    mixed = [len({group(LENGTHS[row]) for row in batch["rows"].numpy()}) > 1 for batch in loader(batches, 0, None)]
    assert mixed.index(True) < len(mixed) / 3  # leftovers are not all at the end


def test_validation_is_the_same_every_time():
    first, again = (contents(validation_batches(LENGTHS, collate, batch_size=4, seed=3)) for _ in range(2))
    assert first == again


def test_reading_batches_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    contents(training_batches(LENGTHS, collate, batch_size=4, seed=3, epoch=0))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("batch_size", [1, 4, 50])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_an_epoch_and_a_validation_without_repeats(world, batch_size, process, capsys):
    """Each row is somebody's, and in training each process has equally many batches, of like size at each step."""

    def shares(plan, **more) -> list[list[np.ndarray]]:
        given = [plan(LENGTHS, collate, batch_size=batch_size, seed=3, **more) for _ in range(world)]
        turns = [loader(batches, 0, process(rank=rank, world=world)) for rank, batches in enumerate(given)]
        return [[batch["rows"].numpy() for batch in turn] for turn in turns]

    train, validation = shares(training_batches, epoch=0), shares(validation_batches)
    assert len({len(share) for share in train}) == 1
    assert len(train[0]) == math.ceil(len(LENGTHS) / batch_size / world) if batch_size > 1 else len(LENGTHS) // world
    left_out = len(LENGTHS) % world if batch_size == 1 else 0
    said = capsys.readouterr().out
    assert (f"so {left_out} of 203 rows are left out of an epoch" in said) == bool(left_out)
    for parts, missing in ((train, left_out), (validation, 0)):
        rows = [row for share in parts for batch in share for row in batch]
        assert len(rows) == len(set(rows)) == len(LENGTHS) - missing
    whole = [rows for rows, _ in contents(training_batches(LENGTHS, collate, batch_size=batch_size, seed=3, epoch=0))]
    if world == 1:
        assert [tuple(batch.tolist()) for batch in train[0]] == whole
    elif batch_size == 4:
        apart = [max(x) - min(x) for x in zip(*([LENGTHS[b].max() for b in share] for share in train), strict=True)]
        assert np.median(apart) <= 4
        assert [LENGTHS[b].max() for b in train[0]] != sorted(LENGTHS[b].max() for b in train[0])


def test_fewer_batches_than_processes_are_refused_in_training_and_measured_by_all_in_validation(process):
    rows = [np.arange(10), np.arange(10, 17), np.arange(17, 20)]

    def made(world: int, training: bool = True):
        return loader(Batches(rows, np.full(20, 9), lambda rows, _: {}, 0, 0, training), 0, process(world=world))

    assert len(made(1)) == 3
    assert len(made(2)) == 2
    with pytest.raises(ValueError, match=r"20 rows in batches of 10 are 3 batches, too few for 4 processes"):
        made(4)
    assert len(made(4, training=False)) == 3


def test_batches_for_a_gpu_are_made_beside_it_and_pinned(process):
    batches = Batches([np.arange(4)], np.full(4, 9), lambda rows, _: {}, 0, 0, True)
    loaders = {
        (device, workers): loader(batches, workers, process(device=device))
        for device in ("cpu", "cuda")
        for workers in (None, 0, 1)
    }
    assert {given: made.num_workers for given, made in loaders.items() if given[1] is None} == {
        ("cpu", None): 0,
        ("cuda", None): 2,
    }
    assert all(made.num_workers == workers for (_, workers), made in loaders.items() if workers is not None)
    assert all(made.pin_memory == (device == "cuda") for (device, _), made in loaders.items())
    assert loader(batches, None, None).num_workers == 0
