"""Two processes against one that reads both their batches as one, in every stage of every method."""

import multiprocessing
import os
import socket
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from pairs import ROWS, all_pairs, material
from torch.utils.data import DataLoader

from kd_lightning.compare import markdown
from kd_lightning.method.adabert import Search
from kd_lightning.run.artifact import predict
from kd_lightning.run.stage import _callbacks, build, quiet, store
from kd_lightning.student.adabert.search import Choice
from kd_lightning.teacher.stored import StoredTeacher

LENGTH = 24  # of every batch: what counts padding counts as much of it in both
OWN_STATISTICS = "adabert-"  # BatchNorms see the batch of their own process


class Watch(L.Callback):
    """Pads each batch, and notes it, the loss and the gradient, and what got none."""

    def __init__(self) -> None:
        self.noted = {name: [] for name in ("batches", "losses", "gradients", "idle", "moved")}

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        width = batch["input_ids"].shape[1]
        if "rows" in batch:
            batch["rows"] = batch["rows"] // width * LENGTH + batch["rows"] % width
        for name in {"real", "labelled"} & batch.keys():
            del batch[name]  # they are found anew
        for name in {"input_ids", "attention_mask", "token_type_ids"} & batch.keys():
            batch[name] = torch.nn.functional.pad(batch[name], (0, LENGTH - width))
        self.noted["batches"].append(dict(batch))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.noted["losses"].append(float(outputs["loss"]))

    def on_before_optimizer_step(self, trainer, module, optimizer):
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        named = [(n, p) for n, p in module.named_parameters() if not n.startswith("teacher.")]
        self.noted["gradients"].append({name: p.grad.clone() for name, p in named if p.grad is not None})
        self.noted["idle"].append([name for name, p in named if id(p) in held and p.requires_grad and p.grad is None])
        self.noted["moved"].append([name for name, p in named if id(p) not in held and (p.requires_grad or p.grad is not None)])


def train(run: DictConfig, watch: Watch, batches: list | None = None, **options) -> SimpleNamespace:
    """batches: to train on in place of the data's own."""
    L.seed_everything(run.seed, verbose=False)
    distiller, data = build(run)
    start = {name: p.detach().clone() for name, p in distiller.named_parameters()}
    data.prepare_data()
    data.setup("fit")
    if batches is not None:
        data.train_dataloader = lambda: DataLoader(batches, batch_size=None)
    callbacks = {name: made for name, made in run.callback.items() if name not in ("progress", "budget", "patience")}
    quietly = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = instantiate(
        run.trainer, callbacks=[watch, *_callbacks(instantiate(callbacks, _convert_="all"))], **quietly, **options
    )
    if isinstance(distiller.teacher, StoredTeacher):
        store(run, distiller, data, trainer)
    trainer.fit(distiller, data)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if "train" not in name}
    weights = {name: p.detach().clone() for name, p in distiller.named_parameters() if not name.startswith("teacher.")}
    table = predict(trainer, distiller, data)
    found = {"metrics": metrics, "weights": weights, "predictions": table and table.to_pydict(), "start": start}
    return SimpleNamespace(**found, **watch.noted, rows=rows_of(data))


def rows_of(data: L.LightningDataModule) -> list:
    """Of a task the numbers of the rows to train on, of a corpus their tokens."""
    if hasattr(data, "train_rows"):
        return sorted(tuple(ids) for ids in data.data[data.train_rows]["input_ids"].to_pylist())
    numbers = data.numbers()
    return sorted(int(n) for name in ("train", "unlabelled") if name in numbers for n in numbers[name])


def _process(rank: int, port: str, folder: Path, pairs: dict[str, DictConfig]) -> None:
    torch.set_num_threads(1)
    log = os.open(folder / f"log{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    given = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": port, "WORLD_SIZE": "2"}
    os.environ.update(given | {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "RANK": str(rank), "LOCAL_RANK": str(rank)})
    rank_zero_only.rank = rank
    warnings.simplefilter("ignore")
    quiet()
    draw = Choice.draw

    def noted(choice: Choice, temperature: float):
        draws.append(torch.get_rng_state())
        return draw(choice, temperature)

    Choice.draw = noted
    for number, run in enumerate(pairs.values()):
        draws = []
        found = train(run, Watch(), devices=2, strategy="ddp")
        torch.save(vars(found) | {"draws": draws}, folder / f"{number}-{rank}.pt")


def joined(batches: list[dict]) -> dict:
    """Of two processes' batches one."""
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    if "rows" in whole:
        whole["rows"] = torch.cat([batches[0]["rows"], batches[1]["rows"] + batches[0]["input_ids"].numel()])
    return whole


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, make_encoder, make_bottleneck_pair) -> dict[str, SimpleNamespace]:
    """Each stage, trained by two processes and by one."""
    folder = tmp_path_factory.mktemp("pairs")
    material(folder, make_encoder, make_bottleneck_pair)
    pairs = all_pairs(folder)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_process, args=(rank, port, folder, pairs)) for rank in (0, 1)]
    for process in both:
        process.start()
    for rank, process in enumerate(both):
        process.join(300)
        assert process.exitcode == 0, (folder / f"log{rank}").read_text()[-5000:]
    found = {}
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        for number, (name, run) in enumerate(pairs.items()):
            two = [SimpleNamespace(**torch.load(folder / f"{number}-{rank}.pt")) for rank in (0, 1)]
            steps = list(zip(two[0].batches, two[1].batches, strict=True))
            apart = name.startswith(OWN_STATISTICS) and "teacher" not in name
            batches = [batch for step in steps for batch in step] if apart else [joined(step) for step in steps]
            draws = iter([state for state in two[0].draws for _ in (0, 1)])

            def again(search: Search, draws=draws):
                with torch.random.fork_rng([]):
                    torch.set_rng_state(next(draws))
                    return search.student.choice.draw(search.relaxation)

            assert len(two[0].draws) == len(steps) * (run.distiller._target_.endswith("Search"))
            patch.setattr(Search, "_draw", again)
            one = train(run, Watch(), batches, accumulate_grad_batches=2 if apart else 1)
            found[name] = SimpleNamespace(two=two, one=one, apart=apart)
    return found


def relative(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """How far apart all of them together are."""
    assert ours.keys() == theirs.keys()
    apart, whole = (
        sum(float(x.square().sum()) for x in values) for values in ([ours[n] - theirs[n] for n in ours], theirs.values())
    )
    return (apart / whole) ** 0.5


def test_two_processes_learn_what_one_learns_that_reads_both_their_batches_as_one(pairs):
    """Loss, gradient and weights; a batch has other lengths, labels and hidden words than the other process's. With -s pytest
    prints the table."""
    assert len(pairs) > 30
    table = []
    for name, pair in pairs.items():
        (first, second), one, share = pair.two, pair.one, 2 if pair.apart else 1
        assert len(first.gradients) == len(one.gradients) == len(second.gradients) > 2, name
        mean = [(a + b) / 2 for a, b in zip(first.losses, second.losses, strict=True)]
        whole = [sum(one.losses[i : i + share]) for i in range(0, len(one.losses), share)]
        assert first.weights.keys() == one.weights.keys()
        for weight, ours in first.weights.items():
            assert torch.equal(ours, second.weights[weight]), (name, weight)
        apart = {
            "loss": [abs(a - b) / abs(b) for a, b in zip(mean, whole, strict=True)],
            "gradient": [relative(ours, theirs) for ours, theirs in zip(first.gradients, one.gradients, strict=True)],
            "weights": [float((ours - one.weights[weight]).abs().max()) for weight, ours in first.weights.items()],
        }
        assert all(value < 1e-5 for values in apart.values() for value in values), (name, apart)  # false of what is no number
        table.append({"stage": name, "updates": str(len(mean)), **{what: f"{max(v):.1e}" for what, v in apart.items()}})
        assert any(not torch.equal(w, one.start[n]) for n, w in one.weights.items()), name
    print(markdown(table))


def read(batches: list[dict]) -> list:
    """What `rows_of` says, of batches."""
    if "index" in batches[0]:
        return [int(number) for batch in batches for number in batch["index"]]
    found = []
    for batch in batches:
        ids = batch["input_ids"].flatten()
        if "rows" in batch:
            ids = ids.scatter(0, batch["rows"], batch["labels"])
        whole = ids.view_as(batch["input_ids"])
        found += [tuple(row[mask.bool()].tolist()) for row, mask in zip(whole, batch["attention_mask"], strict=True)]
    return found


def test_every_row_is_read_once_by_one_of_them(pairs):
    for name, pair in pairs.items():
        mine, others = (read(found.batches) for found in pair.two)
        assert sorted(mine + others) == pair.two[0].rows, name
        assert len(pair.two[0].rows) == ROWS, name


def test_both_measure_together_what_one_measures_and_say_of_each_row_what_one_says(pairs):
    measured = set()
    for name, pair in pairs.items():
        (first, second), one = pair.two, pair.one
        assert first.metrics == second.metrics, name
        assert first.predictions == second.predictions, name
        if not pair.apart:
            assert first.metrics == pytest.approx(one.metrics, rel=1e-5, abs=1e-6), name
            measured |= set(one.metrics)
            for column in one.predictions or ():
                assert torch.allclose(*(torch.tensor(t.predictions[column]) for t in (first, one)), rtol=1e-4, atol=1e-5), name
    assert {"val/loss", "val/student/accuracy", "val/teacher/accuracy", "val/student/mlm_loss", "val/agreement"} <= measured
    assert any(pair.one.predictions for pair in pairs.values())


def test_after_a_backward_all_that_the_optimizer_holds_has_a_gradient_and_nothing_else_has_or_moves(pairs):
    """But for a search, where what was not drawn has none, and for a phase, where what is above it requires none."""
    still = {}
    for name, pair in pairs.items():
        assert not [found for found in pair.one.moved if found], name
        if "search" not in name:
            assert not [found for found in pair.one.idle if found], name
        start, end = pair.one.start, pair.one.weights
        still[name] = [weight for weight in end if torch.equal(start[weight], end[weight])]
        reached = set().union(*pair.one.gradients)
        assert not [weight for weight in end if weight not in reached and weight not in still[name]], name
    assert "student.model.cls.predictions.transform.dense.weight" in still["tinybert-general"]
    assert "student.model.bert.pooler.dense.weight" in still["tinybert-intermediate"]


def test_processes_that_search_draw_the_same(pairs):
    first, second = pairs["adabert-search"].two
    assert first.draws
    for ours, theirs in zip(first.draws, second.draws, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(first.draws[0], first.draws[1])
