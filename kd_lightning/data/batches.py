"""Batches by length: what is in a batch follows from (seed, epoch, index) alone, so a run resumes where it stopped."""

import signal
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

WORKERS = 2  # beside a GPU, which is ready for the next batch sooner than one process has made it
Collate = Callable[[np.ndarray, torch.Generator], dict[str, Tensor]]


def by_length(lengths: np.ndarray, order: np.ndarray, batch_size: int, step: int = 4) -> list[np.ndarray]:
    """The row numbers of each batch: rows of like length together, in the given order.

    A row of length n is in group ⌊(n - 3) / step⌋ + 1; a batch goes out as soon as a group holds batch_size rows;
    leftovers are joined in order of group, so that there are exactly ⌈N / batch_size⌉ batches (DistilBERT's release).
    """
    groups = (np.asarray(lengths) - 3) // step + 1
    waiting: dict[int, list[int]] = {}
    batches: list[np.ndarray] = []
    for row in order:
        rows = waiting.setdefault(int(groups[row]), [])
        rows.append(int(row))
        if len(rows) == batch_size:
            batches.append(np.array(rows))
            rows.clear()
    left = [row for group in sorted(waiting) for row in waiting[group]]
    return batches + [np.array(left[i : i + batch_size]) for i in range(0, len(left), batch_size)]


def spread(lengths: np.ndarray, count: int) -> np.ndarray:
    """The numbers of so many rows at the most, in order: a quarter of them the longest, the others from all over."""
    if len(lengths) <= count:
        return np.arange(len(lengths))
    longest = np.argsort(lengths, kind="stable")[-(count // 4) :]
    others = np.setdiff1d(np.arange(len(lengths)), longest)
    return np.sort(np.concatenate([longest, others[np.linspace(0, len(others) - 1, count - len(longest)).astype(int)]]))


class Batches(Dataset):
    """Batch i of an epoch, collated with a generator of its own.

    plan: the numbers of each batch's rows. lengths: of all rows. training: processes that train together get equally many
    batches each; otherwise, as many as there are.
    """

    def __init__(
        self, plan: Sequence[np.ndarray], lengths: np.ndarray, collate: Collate, seed: int, epoch: int, training: bool
    ) -> None:
        self.plan, self.lengths, self.collate = list(plan), lengths, collate
        self.seed, self.epoch, self.training = seed, epoch, training

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        state = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> 1))
        return self.collate(self.plan[index], generator)

    def shares(self, world: int) -> list[list[int]]:
        """The batches of each process, in order. No row is in two of them, and every row in one.

        In training the n-th batches of all processes are of like size, since each step waits for the largest of them, and the
        largest batches are halved until there are equally many for each; where all are of one row, the last are left out of
        the epoch. In validation each process has all of them where they are fewer than the processes.
        """
        plan, every = self.plan, list(range(len(self.plan)))
        if not self.training or world == 1:
            return [every[rank::world] if len(plan) >= world else every for rank in range(world)]
        while len(plan) % world and len(largest := max(plan, key=len)) > 1:
            place, half = next(i for i, rows in enumerate(plan) if rows is largest), len(largest) // 2
            plan[place] = largest[:half]
            plan.append(largest[half:])
        sizes = [len(rows) * int(self.lengths[rows].max()) for rows in plan[: len(plan) // world * world]]
        order = sorted(range(len(sizes)), key=sizes.__getitem__)
        steps = sorted((order[i : i + world] for i in range(0, len(order), world)), key=min)
        return [[step[rank] for step in steps] for rank in range(world)]


class Turn(Sampler[int]):
    """The batches of one process. done(): how many of them this epoch has had already."""

    def __init__(self, batches: Sequence[int], done: Callable[[], int]) -> None:
        self.mine, self.done = batches, done

    def __len__(self) -> int:
        return len(self.mine)

    def __iter__(self) -> Iterator[int]:
        return iter(self.mine[self.done() :])


class Loader(DataLoader):
    """One item of the data set is one batch. Nothing is fixed before the first batch is asked for: Lightning makes the
    iterator of an interrupted epoch before it knows that the epoch was interrupted."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        yield from super().__iter__()


def loader(batches: Batches, workers: int | None, trainer: Trainer | None) -> Loader:
    """The loader of this process. It draws from a generator of its own and leaves the global one alone. workers: how many
    processes make batches beside it; None: WORKERS where the network is on a GPU, else none.

    Raises ValueError where there are fewer batches than processes.
    """
    rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
    sizes = [len(rows) for rows in batches.plan]
    if batches.training and len(sizes) < world:
        raise ValueError(
            f"{sum(sizes):,} rows in batches of {max(sizes, default=0)} are {len(sizes)} batches, too few for {world} "
            "processes. Lower data.batch_size, or use fewer processes."
        )
    shares = batches.shares(world)
    left = sum(sizes) - sum(len(batches.plan[number]) for share in shares for number in share) if batches.training else 0
    if left and rank == 0 and batches.epoch == 0:
        print(f"{world} processes have equally many batches, so {left:,} of {sum(sizes):,} rows are left out of an epoch.")

    def done() -> int:
        return trainer.fit_loop.epoch_loop.batch_progress.current.ready if trainer and batches.training else 0

    turn, own = Turn(shares[rank], done), torch.Generator()
    card = bool(trainer) and trainer.strategy.root_device.type == "cuda"
    return Loader(
        batches,
        sampler=turn,
        batch_size=None,
        num_workers=(WORKERS if card else 0) if workers is None else workers,
        pin_memory=card,  # a batch goes to the card while it still computes
        generator=own,
        worker_init_fn=outlive_signals,
    )


def outlive_signals(_: int) -> None:
    """A signal may reach all processes of a run (SLURM, Ctrl-C). The main one needs its workers to the end of the batch, and
    then ends them itself."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def training_batches(lengths: np.ndarray, collate: Collate, *, batch_size: int, seed: int, epoch: int) -> Batches:
    """All rows once, in an order of this epoch's own."""
    random = np.random.default_rng([seed, epoch])
    plan = by_length(lengths, random.permutation(len(lengths)), batch_size)
    random.shuffle(plan)
    return Batches(plan, lengths, collate, seed, epoch, training=True)


def validation_batches(lengths: np.ndarray, collate: Collate, *, batch_size: int, seed: int) -> Batches:
    """All rows once, the same batches every time."""
    plan = by_length(lengths, np.arange(len(lengths)), batch_size)
    return Batches(plan, lengths, collate, seed, 0, training=False)
