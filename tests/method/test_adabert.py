"""AdaBERT's losses on the numbers of specs/adabert.md, and who moves what in a search."""

import lightning as L
import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import DataLoader

from kd_lightning.callback.anneal import Anneal, exponential
from kd_lightning.callback.architecture import ReportArchitecture
from kd_lightning.data.batches import loader, training_batches
from kd_lightning.method.adabert import AdaBERT, ProbeMatch, Search, layer_table
from kd_lightning.student.adabert.architecture import OPERATIONS
from kd_lightning.student.adabert.network import AdaBertConfig
from kd_lightning.student.adabert.search import LARGEST, Draw, SearchNetwork
from kd_lightning.views import Readout, Spec, View

LABELS = ("a", "b", "c")
WEIGHTS = {"gold": 0.2, "soft": 0.4, "probes": 0.4, "attentive": True, "temperature": 1.0}
CHOICE = {"lr": 1e-2, "betas": [0.5, 0.999], "weight_decay": 0.0}
SEARCH = {"efficiency": 4.0, "cost_length": 128, "choice": CHOICE, "settle": 3}


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (3, [0, 4, 8, 12]),
        (4, [0, 3, 6, 9, 12]),
        (5, [0, 3, 5, 8, 10, 12]),
        (6, [0, 2, 4, 6, 8, 10, 12]),
        (7, [0, 2, 4, 6, 7, 9, 11, 12]),
        (8, [0, 2, 3, 5, 6, 8, 9, 11, 12]),
    ],
)
def test_the_layer_table_is_the_ceiling(depth, expected):
    assert layer_table(depth, 12) == expected


def test_better_probes_weigh_more():
    """Of two classes: losses of 0, ln 2 and ln 4 on the gold label."""
    batch = {"labels": torch.tensor([0, -100]), "input_ids": torch.zeros(2, 3)}
    right, undecided = torch.tensor([[40.0, 0.0], [0.0, 99.0]]), torch.zeros(2, 2)
    wrong = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    probes = [right, undecided, wrong]
    assert_close(ProbeMatch.weights(probes, batch), torch.tensor([0.571429, 0.285714, 0.142857]), rtol=0, atol=1e-6)
    unlabelled = batch | {"labels": torch.tensor([-100, -100])}
    assert_close(ProbeMatch.weights(probes, unlabelled), torch.full((3,), 1 / 3))


@pytest.mark.parametrize("attentive", [True, False])
def test_probes_are_compared_at_the_layers_of_the_table_for_the_depth_that_is_shown(attentive, task_batch, make_view):
    """A student of 5 layers at most shows 2, of a teacher of 4: layers 0, 2 and 4."""
    batch = task_batch()
    term = ProbeMatch(1.0, attentive=attentive, temperature=2.0, every_depth=True)
    spec = {"hidden": 6, "heads": 0, "vocabulary": 97, "labels": LABELS}
    term.bind(Spec(layers=5, **spec), Spec(layers=4, **spec))
    assert term.needs[0].hidden == frozenset(range(6))
    assert term.needs[1].probes
    view, probes = make_view(batch, seed=1, layers=2), torch.randn(4, 5, 3)
    shown = View({k: view.hidden[k] for k in (0, 1, 2)})
    expected, weights = 0.0, []
    for i, layer in enumerate((0, 2, 4)):
        losses = []
        for row in range(4):
            length = int(batch["attention_mask"][row].sum())
            ours = term.linears["2"][i](view.hidden[i][row, :length].mean(0).tanh())
            theirs = (probes[row, layer] / 2).softmax(-1)
            losses.append(-(theirs * (ours / 2).log_softmax(-1)).sum())
        gold = F.cross_entropy(probes[:, layer], batch["labels"])
        weights.append((-gold).exp() if attentive else torch.tensor(1.0))
        expected = expected + weights[-1] * torch.stack(losses).mean()
    found = term(shown, View(probes=probes), batch)
    assert_close(found, expected / torch.stack(weights).sum())


class Answers(torch.nn.Module):
    """A teacher that has answers by row: `probes` [n, L + 1, C] and logits, which are those of the last layer."""

    def __init__(self, probes: torch.Tensor) -> None:
        super().__init__()
        self.probes = torch.nn.Parameter(probes)
        layers, classes = probes.shape[1:]
        self.spec = Spec(layers=layers - 1, hidden=32, heads=4, vocabulary=97, labels=LABELS[:classes], stored=True)

    def forward(self, batch, needs) -> View:
        shown = self.probes[batch["index"]]
        return View(probes=shown, readout=lambda rows: Readout(shown[rows, -1]))


def network(tokenizer, cells: int = 3) -> SearchNetwork:
    torch.manual_seed(0)
    shape = {"vocab_size": 97, "channels": 8, "dropout": 0.0, "max_position_embeddings": 64}
    config = AdaBertConfig(architecture=LARGEST.as_dict(), id2label=dict(enumerate(LABELS)), **shape)
    return SearchNetwork(config, cells, tokenizer)


@pytest.fixture
def search(tokenizer, engine):
    def search(teacher=None, cells=3, **other) -> Search:
        answers = Answers(torch.randn(64, 5, 3, generator=torch.Generator().manual_seed(0)))
        distiller = Search(**(WEIGHTS | SEARCH | other), **engine(network(tokenizer, cells), teacher or answers, lr=1e-2))
        distiller._log = lambda *_: None
        distiller.train()
        return distiller

    return search


@pytest.fixture
def batch(task_batch):
    return task_batch(size=16) | {"index": torch.arange(16)}


def test_the_total_is_one_minus_gamma_gold_gamma_kd_and_beta_efficiency(search, batch):
    """CE 1, KD 0.5 and L_E 0.1 give 0.2 + 0.4 + 0.4 = 1."""
    distiller = search()
    for name, value in (("gold", 1.0), ("soft", 0.5), ("probes", 0.5)):
        distiller.objective.terms[name].forward = lambda *_, value=value: torch.tensor(value)
    distiller.student.choice.depth.data[:] = torch.tensor([-99.0, -99.0, 99.0])
    distiller.cost[:] = 0.1 * 8 / 3  # three of the eight cells that the weight is for
    assert float(distiller.training_step(batch, 0).detach()) == pytest.approx(1.0, abs=1e-5)


def test_a_step_in_float64_is_that_of_float32(search, batch):
    found = []
    for precise in (False, True):
        torch.manual_seed(1)  # of the linears of its probes
        made = search()
        if precise:
            made.double()
        torch.manual_seed(0)
        found.append(made.training_step(batch, 0).detach())
    assert_close(found[0], found[1], rtol=1e-5, atol=0)


def test_a_step_moves_what_was_drawn_and_the_choice_and_never_the_teacher(search, batch):
    distiller = search()
    distiller.training_step(batch, 0).backward()
    choice = distiller.student.choice
    assert choice.edges.grad.abs().sum(1).gt(0).all()
    assert choice.depth.grad.ne(0).all()
    assert distiller.student.body.embeddings.words.weight.grad.any()
    assert all(p.grad is None for p in distiller.teacher.parameters())


@pytest.mark.parametrize("drawn", [1, 2, 4])
def test_a_perfect_student_of_any_depth_leaves_the_choice_of_depth_alone(drawn, search, batch):
    """The probes' part would ask 1.257, 1.342, 1.412 and 1.481 of perfect students of 1, 2, 3 and 4 cells."""
    asked = [1.257, 1.342, 1.412, 1.481]
    distiller = search(cells=4, efficiency=0.0)
    terms = distiller.objective.terms
    terms["gold"].forward = lambda student, *_: torch.tensor(0.3)
    terms["soft"].forward = lambda student, *_: torch.tensor(0.6)
    terms["probes"].forward = lambda student, *_: torch.tensor(asked[max(student.hidden) - 1])
    depth = torch.tensor([float(d == drawn) for d in (1, 2, 3, 4)], requires_grad=True)
    edges = F.one_hot(torch.zeros(9, dtype=torch.long), 10).float().requires_grad_()
    loss, parts = distiller._distil(batch, Draw(edges, depth))
    assert float(loss.detach()) == pytest.approx(0.2 * 0.3 + 0.4 * 0.6 + 0.4 * asked[drawn - 1], abs=1e-6)
    assert float(parts["probes"]) == pytest.approx(asked[drawn - 1])
    loss.backward()
    assert_close(depth.grad, torch.full((4,), 0.3), rtol=0, atol=1e-6)


def test_the_depth_learns_from_the_gold_and_soft_loss_of_each_depth(search, batch):
    """0.2 · gold + 0.4 · soft, by hand: 0.2 · (1, 0.8, 0.5) + 0.4 · (2, 1, 0)."""
    gold, soft = [1.0, 0.8, 0.5], [2.0, 1.0, 0.0]
    distiller = search(efficiency=0.0)
    terms = distiller.objective.terms
    for name, values in (("gold", gold), ("soft", soft)):
        terms[name].forward = lambda student, *_, values=values: torch.tensor(values[max(student.hidden) - 1])
    depth = torch.tensor([0.0, 1.0, 0.0], requires_grad=True)
    edges = F.one_hot(torch.zeros(9, dtype=torch.long), 10).float().requires_grad_()
    distiller._distil(batch, Draw(edges, depth))[0].backward()
    assert_close(depth.grad, torch.tensor([1.0, 0.56, 0.1]), rtol=0, atol=1e-6)


def test_each_depth_has_probes_of_its_own_and_a_fixed_network_those_of_its_depth(search, engine, fixed):
    every = search().objective.terms["probes"].linears
    assert {depth: len(linears) for depth, linears in every.items()} == {"1": 2, "2": 3, "3": 4}
    spec = {"hidden": 6, "heads": 0, "vocabulary": 97, "labels": LABELS}
    term = ProbeMatch(1.0, attentive=True, temperature=1.0, every_depth=False)
    term.bind(Spec(layers=3, **spec), Spec(layers=4, **spec))
    assert {depth: len(linears) for depth, linears in term.linears.items()} == {"3": 4}


def test_weights_and_choice_have_rates_of_their_own_and_every_parameter_is_in_one_group(search):
    distiller = search()
    groups = distiller.parameter_groups()
    seen = [id(p) for group in groups for p in group["params"]]
    wanted = [*distiller.student.parameters(), *distiller.objective.parameters()]
    assert sorted(seen) == sorted(map(id, wanted))
    assert {id(p) for p in groups[-1]["params"]} == {id(p) for p in distiller.student.choice.parameters()}
    optimizer = distiller.make_optimizer(groups)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-2, 1e-2, 1e-2]
    assert optimizer.param_groups[-1]["betas"] == [0.5, 0.999]


class Rows(L.LightningDataModule):
    """Texts whose class is their rarest word's; the teacher knows it, and the higher the layer the better."""

    def __init__(self, count: int = 12) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        ids = torch.randint(20, 90, (16 * count, 6), generator=random)
        labels = torch.randint(0, 3, (16 * count,), generator=random)
        ids[torch.arange(len(ids)), torch.randint(0, 6, (len(ids),), generator=random)] = 5 + labels
        right = 2.0 * torch.arange(5)[:, None] * F.one_hot(labels, 3)[:, None]
        self.answers = Answers(right + 0.1 * torch.randn(right.shape, generator=random))
        rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "index": torch.arange(len(ids))}
        self.batches = [{name: r[part] for name, r in rows.items()} for part in torch.arange(len(ids)).split(16)]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None, generator=torch.Generator())

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.batches[:4], batch_size=None, generator=torch.Generator())


class Watch(L.Callback):
    def __init__(self) -> None:
        self.temperatures: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        self.temperatures.append(pl_module.relaxation)


def searching(tokenizer, engine, data, **other) -> Search:
    return Search(**(WEIGHTS | SEARCH | other), **engine(network(tokenizer), data.answers, lr=1e-2))


def test_a_search_learns_and_logs_what_it_has_found(tokenizer, engine, fit, capsys):
    data, watch = Rows(), Watch()
    distiller = searching(tokenizer, engine, data)
    anneal = Anneal(lambda epoch: exponential(epoch, epochs=8, fall=4, floor=0.4))
    callbacks = [anneal, ReportArchitecture(length=128), watch]
    trainer, losses = fit(distiller, data, callbacks=callbacks, max_epochs=8)
    assert sum(losses[-12:]) < sum(losses[:12]) - 0.2 * 12
    assert_close(torch.tensor(watch.temperatures[::12][:3]), torch.tensor([1.0, 0.6065307, 0.4]))
    logged = trainer.callback_metrics
    assert float(logged["search/entropy/edges"]) < 2.302585 - 1e-3
    assert {"search/entropy/cells", "search/expected/multiply_adds", "search/share/zero", "search/edge/3-4"} <= set(logged)
    assert "Epoch 8: " in capsys.readouterr().out
    batch, rows = data.batches[0], torch.arange(16)
    trainer.validate(distiller, data, verbose=False)
    found = distiller.student(batch, distiller.student_needs).logits(rows).argmax(-1)
    assert (found == batch["labels"]).float().mean() > 0.8
    assert distiller.student.model.config.architecture == distiller.student.choice.architecture().as_dict()


class Choices(L.Callback):
    def __init__(self) -> None:
        self.found: list[np.ndarray] = []

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        choice = pl_module.student.choice
        self.found.append(np.concatenate([p.detach().numpy().ravel() for p in (choice.edges, choice.depth)]))


@pytest.mark.parametrize(("wait", "rests"), [(0.5, 6), (0.0, 0)])
def test_the_choice_rests_while_the_weights_learn_for_as_long_as_wait_says(tokenizer, engine, fit, wait, rests):
    """Of 12 updates 6, or none."""
    data, watch = Rows(12), Choices()
    distiller = searching(tokenizer, engine, data, wait=wait)
    begun = [p.detach().clone() for p in (distiller.student.choice.edges, distiller.student.choice.depth)]
    words = distiller.student.body.embeddings.words.weight.detach().clone()
    fit(distiller, data, callbacks=[watch], max_epochs=1)
    start = np.concatenate([p.numpy().ravel() for p in begun])
    moved = [bool((found != start).any()) for found in watch.found]
    assert moved == [False] * rests + [True] * (12 - rests)
    assert (distiller.student.body.embeddings.words.weight != words).any()


def test_a_wait_that_leaves_no_time_to_choose_is_refused(search):
    with pytest.raises(ValueError, match=r"wait=1\.0: give the share of the updates"):
        search(wait=1.0)


class Shuffled(Rows):
    """As the framework's own data modules give them: each epoch in an order of its own."""

    def train_dataloader(self):
        def collate(rows, _):
            return self.batches[int(rows[0])]

        epoch = self.trainer.current_epoch
        batches = training_batches(np.full(len(self.batches), 9), collate, batch_size=1, seed=0, epoch=epoch)
        return loader(batches, 0, self.trainer)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("steps", [3, 5, 7])
def test_a_search_goes_on_where_it_was_interrupted(tokenizer, engine, fit, tmp_path, steps):
    """To the last bit, in the middle of its first or second epoch of five batches or between them."""

    class Save(L.Callback):
        def on_train_batch_end(self, trainer, *_) -> None:
            if trainer.global_step == steps:
                trainer.save_checkpoint(tmp_path / "stopped.ckpt")

    def options() -> dict:
        anneal = Anneal(lambda epoch: exponential(epoch, epochs=3, fall=1.5, floor=0.1))
        return {"callbacks": [anneal, Save()], "max_epochs": 3, "reload_dataloaders_every_n_epochs": 1}

    data = Shuffled(5)
    whole = searching(tokenizer, engine, data)
    torch.manual_seed(5)
    _, losses = fit(whole, data, **options())
    torch.manual_seed(77)
    resumed = searching(tokenizer, engine, data)
    _, rest = fit(resumed, Shuffled(5), ckpt_path=str(tmp_path / "stopped.ckpt"), **options())
    assert len(set(losses)) == 15
    assert rest == losses[steps:]
    assert_close(dict(resumed.student.state_dict()), dict(whole.student.state_dict()), rtol=0, atol=0)


def test_a_search_that_has_collapsed_is_reported(tokenizer, engine, fit):
    data = Rows(1)
    distiller = searching(tokenizer, engine, data)
    distiller.student.choice.edges.data[:, OPERATIONS.index("average_pool")] = 99.0
    with pytest.warns(UserWarning, match="collapsed to operations without weights"):
        fit(distiller, data, callbacks=[ReportArchitecture(length=128)])


def test_the_task_stage_is_the_same_losses_at_one_depth(fixed, engine, make_view, task_batch):
    batch = task_batch(size=4)
    spec = {"hidden": 6, "heads": 0, "vocabulary": 97, "labels": LABELS}
    ours = make_view(batch, seed=0, layers=2, classes=3)
    ours = View({k: ours.hidden[k] for k in range(3)}, readout=ours.readout)
    theirs = View(readout=make_view(batch, seed=1, classes=3).readout, probes=torch.randn(4, 5, 3))
    networks = fixed(Spec(layers=2, **spec), ours), fixed(Spec(layers=4, **spec), theirs)
    distiller = AdaBERT(**WEIGHTS, **engine(*networks))
    found, parts = distiller.objective(*distiller.views(batch), batch)
    rows = torch.arange(4)
    gold = F.cross_entropy(ours.logits(rows), batch["labels"])
    soft = F.cross_entropy(ours.logits(rows), theirs.logits(rows).softmax(-1))
    assert_close(found, 0.2 * gold + 0.4 * soft + 0.4 * parts["probes"])
    assert not any("linears" in name for name, _ in distiller.student.named_parameters())
