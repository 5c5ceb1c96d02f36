"""Check G, I and L of the spec, what a phase computes, and resuming in the middle of one."""

from functools import partial
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch

from kd_lightning.callback.progressive import Progressive
from kd_lightning.data.batches import loader, training_batches
from kd_lightning.method.mobilebert import LayerTransfer, layer_terms
from kd_lightning.views import Needs

WEIGHTS = {"feature": 0.0, "normalised": 100.0, "mean": 5000.0, "variance": 5.0, "attention": 1.0}


@pytest.fixture
def make(make_bottleneck_pair, engine):
    def build(*, blocks: int = 3, lr: float = 1e-3, layers="uniform", **other) -> LayerTransfer:
        student, teacher = make_bottleneck_pair(blocks=blocks, **other)
        transfer = partial(layer_terms, layers=layers, valid_only=True, **WEIGHTS)
        return LayerTransfer(transfer=transfer, **engine(student, teacher, lr=lr))

    return build


def entered(distiller: LayerTransfer, updates: int, below: float = 0.1) -> tuple[Progressive, SimpleNamespace]:
    """A callback and its trainer as they are when training starts."""
    callback, trainer = Progressive(below=below), SimpleNamespace(estimated_stepping_batches=updates, global_step=0)
    trainer.print, trainer.strategy = lambda *_: None, SimpleNamespace(model=distiller)
    callback.setup(trainer, distiller, "fit")
    callback.on_train_start(trainer, distiller)
    return callback, trainer


def rates(callback, trainer, distiller, step: int, base: float) -> dict[int, float]:
    """The rate of each block in the update after so many updates."""
    trainer.global_step = step
    callback.on_train_batch_start(trainer, distiller, None, 0)
    optimizer = SimpleNamespace(param_groups=[{"lr": base, "block": block} for block in (1, 2, 3, 4)])
    callback.on_before_optimizer_step(trainer, distiller, optimizer)
    return {group["block"]: group["lr"] for group in optimizer.param_groups}


@pytest.mark.parametrize("phase", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.0), (100, 4.5e-4), (500, 2.25e-3), (1000, 4.476906e-3), (5000, 4.368198e-3), (9999, 4.0545e-3)]
)
def test_rates_of_the_spec(step, rate, phase, make):
    """Check G: phases of 10,000 updates, three times the base rate of 1.5e-3; below a tenth of it, above nothing."""
    distiller = make(blocks=4)
    found = rates(*entered(distiller, 40_000), distiller, 10_000 * (phase - 1) + step, 3 * 1.5e-3)
    expected = {block: rate / 10 if block < phase else rate if block == phase else 0.0 for block in (1, 2, 3, 4)}
    assert found == pytest.approx(expected, rel=1e-6)


def test_each_phase_compares_its_block_and_validation_all_of_them(make):
    distiller = make(blocks=4)
    callback, trainer = entered(distiller, 40)
    for step in range(40):
        trainer.global_step = step
        callback.on_train_batch_start(trainer, distiller, None, 0)
        block = frozenset({step // 10 + 1})
        assert distiller.student_needs == distiller.teacher_needs == Needs(hidden=block, attention=block)
        learning = [all(p.requires_grad for p in b.parameters()) for b in distiller.student.blocks]
        assert learning == [k <= step // 10 for k in range(4)]
        if step == 14:
            callback.on_validation_start(trainer, distiller)
            assert distiller.student_needs.hidden == {1, 2, 3, 4}


def test_a_rate_of_nothing_below_freezes_and_a_phase_has_all_blocks_above_the_last_pair(make):
    distiller = make(blocks=4, layers=[[4, 4], [2, 1]])
    callback, trainer = entered(distiller, 40, below=0.0)
    for step, learning, teacher in ((0, [1, 1, 0, 0], 1), (19, [1, 1, 0, 0], 1), (20, [0, 0, 1, 1], 4)):
        found = rates(callback, trainer, distiller, step, 1.0)
        assert [rate > 0 for rate in found.values()] == [bool(x) and step % 20 > 0 for x in learning]
        assert [next(b.parameters()).requires_grad for b in distiller.student.blocks] == [bool(x) for x in learning]
        assert distiller.teacher_needs.hidden == {teacher}


@pytest.mark.parametrize("below", [-0.1, 1.5])
def test_a_share_outside_0_to_1_is_refused(below):
    with pytest.raises(ValueError, match=f"method.below={below}"):
        Progressive(below=below)


def test_fewer_updates_than_phases_are_refused(make, fit, corpus_batch):
    with pytest.raises(ValueError, match="2 updates are too few for 3 phases"):
        fit(make(), [corpus_batch()] * 2, callbacks=[Progressive(below=0.1)])


class Snapshots(L.Callback):
    """The student's parameters after each update, and which blocks each batch has run through."""

    def __init__(self, distiller: LayerTransfer) -> None:
        self.after, self.runs = [], [[]]  # the first: before any batch
        for who in ("student", "teacher"):
            for number, block in enumerate(getattr(distiller, who).blocks, start=1):
                block.register_forward_hook(lambda *_, at=(who, number): self.runs[-1].append(at))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.runs.append([])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.after.append({name: p.detach().clone() for name, p in pl_module.student.model.named_parameters()})


def test_a_phase_runs_its_blocks_once_and_none_above_and_moves_those_alone(make, fit, corpus_batch):
    distiller = make()
    before = {name: p.detach().clone() for name, p in distiller.student.model.named_parameters()}
    snapshots = Snapshots(distiller)
    fit(distiller, [corpus_batch(seed=i) for i in range(9)], callbacks=[Progressive(below=0.1), snapshots])
    assert len(snapshots.after) == 9
    for step, (runs, after) in enumerate(zip(snapshots.runs[1:], snapshots.after, strict=True)):
        phase = step // 3 + 1
        assert sorted(runs) == sorted((who, k) for who in ("student", "teacher") for k in range(1, phase + 1))
        moved = {name for name, p in after.items() if not torch.equal(p, before[name])}
        blocks = {int(name.split("encoder.layer.")[1].split(".")[0]) + 1 for name in moved if "encoder.layer." in name}
        assert not {name for name in moved if "encoder.layer." not in name}
        assert blocks <= set(range(1, phase + 1))
        if step % 3:  # the first rate of a phase is 0
            assert phase in blocks


def test_what_is_above_the_phase_may_be_anything(make, fit, corpus_batch):
    """Blocks above that give no number at all change neither loss nor gradient."""
    whole, poisoned = make(), make()
    with torch.no_grad():
        for network in (poisoned.student, poisoned.teacher):
            for block in network.blocks[1:]:
                for parameter in block.parameters():
                    parameter.fill_(float("nan"))
    batches = [corpus_batch(seed=i) for i in range(9)]
    _, expected = fit(whole, batches, callbacks=[Progressive(below=0.1)])
    found = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            found.append(float(outputs["loss"]))

    with pytest.raises(ValueError, match=r"is nan in epoch 0, step 3"):  # where the next phase begins
        fit(poisoned, batches, callbacks=[Progressive(below=0.1), Watch()])
    assert found == expected[:3]
    assert np.isfinite(expected).all()


def test_gradients_reach_every_block_below_and_none_above(make, corpus_batch):
    distiller = make()
    callback, trainer = entered(distiller, 9)
    for phase in (1, 2, 3):
        trainer.global_step = 3 * phase - 2
        callback.on_train_batch_start(trainer, distiller, None, 0)
        distiller.zero_grad()
        batch = corpus_batch()
        distiller.objective(*distiller.views(batch), batch)[0].backward()
        assert len(distiller.student.blocks) == 3
        for number, block in enumerate(distiller.student.blocks, start=1):
            reached = [p.grad is not None and bool(p.grad.any()) for p in block.parameters()]
            assert all(reached) if number <= phase else not any(reached)
        outside = [p for name, p in distiller.student.model.named_parameters() if ".encoder." not in name]
        assert outside
        assert all(p.grad is None for p in outside)


@pytest.mark.parametrize("below", [0.1, 0.0])
def test_in_every_phase_exactly_what_requires_a_gradient_gets_one(below, make_bottleneck_pair, engine, corpus_batch):
    """Also where only attention is compared, whose block is then not read to its end before the next phase."""
    student, teacher = make_bottleneck_pair()
    weights = {"feature": 0.0, "normalised": 0.0, "mean": 0.0, "variance": 0.0, "attention": 1.0}
    transfer = partial(layer_terms, layers="uniform", valid_only=True, **weights)
    distiller, wanted = LayerTransfer(transfer=transfer, **engine(student, teacher)), []
    callback, trainer = entered(distiller, 9, below=below)
    for phase in (1, 2, 3):
        trainer.global_step = 3 * phase - 2
        callback.on_train_batch_start(trainer, distiller, None, 0)
        distiller.zero_grad()
        batch = corpus_batch()
        distiller.objective(*distiller.views(batch), batch)[0].backward()
        got = {name for name, p in student.named_parameters() if p.grad is not None}
        assert got == {name for name, p in student.named_parameters() if p.requires_grad}
        wanted.append(len(got))
    whole = len(list(student.blocks[0].parameters()))
    assert 0 < wanted[0] < whole  # not its values, and not what follows the attention
    assert wanted[1] == wanted[0] + (whole if below else 0)
    assert wanted[2] == wanted[1] + (whole if below else 0)
    held = {id(p) for group in distiller.parameter_groups() for p in group["params"]}
    assert held <= {id(p) for block in student.blocks for p in block.parameters()}


class Ten(L.LightningDataModule):
    """Ten batches an epoch, in an order of its own."""

    def __init__(self, make_batch) -> None:
        super().__init__()
        self.make_batch = make_batch

    def train_dataloader(self):
        def collate(rows, _):
            return self.make_batch(seed=int(rows[0]))

        batches = training_batches(np.full(10, 9), collate, batch_size=1, seed=0, epoch=self.trainer.current_epoch)
        return loader(batches, 0, self.trainer)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("schedule", ["constant", "linear"])
@pytest.mark.parametrize("below", [0.1, 0.0])
def test_a_run_goes_on_in_the_middle_of_any_phase_as_if_it_had_not_stopped(below, schedule, make, fit, corpus_batch, tmp_path):
    class Save(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    def build(seed: int) -> LayerTransfer:
        distiller = make()
        distiller.schedule = schedule
        if seed:
            with torch.no_grad():
                for block in distiller.student.blocks:
                    for parameter in block.parameters():
                        parameter.add_(1.0)
        return distiller

    full = build(0)
    _, whole = fit(full, Ten(corpus_batch), callbacks=[Progressive(below=below), Save()], max_epochs=1)
    assert len(set(whole)) == 10
    for step in range(1, 10):
        resumed = build(1)
        where = str(tmp_path / f"{step}.ckpt")
        _, rest = fit(resumed, Ten(corpus_batch), callbacks=[Progressive(below=below)], max_epochs=1, ckpt_path=where)
        assert rest == whole[step:], step
        for ours, expected in zip(resumed.student.parameters(), full.student.parameters(), strict=True):
            assert torch.equal(ours, expected), step


def test_each_phase_says_how_long_it_took(make, fit, corpus_batch, capsys):
    fit(make(), [corpus_batch(seed=i) for i in range(10)], callbacks=[Progressive(below=0.1)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Phase ")]
    assert [line.rpartition(" in ")[0] for line in lines] == [
        f"Phase {k} of 3: {n} updates" for k, n in ((1, 3), (2, 3), (3, 4))
    ]


def test_the_rate_is_set_once_an_update_whatever_is_accumulated(make, fit, corpus_batch):
    seen = []

    class Rates(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            seen.append([group["lr"] for group in optimizer.param_groups[::2]])

    callbacks = [Progressive(below=0.1), Rates()]
    fit(make(lr=1.0), [corpus_batch(seed=i) for i in range(12)], accumulate_grad_batches=2, callbacks=callbacks)
    rate = 0.9 + 0.1 * 0.5**0.5
    still = [0, 0, 0]
    expected = [still, [rate, 0, 0], still, [0.1 * rate, rate, 0], still, [0.1 * rate, 0.1 * rate, rate]]
    assert np.array(seen) == pytest.approx(np.array(expected))


def test_the_first_phase_brings_the_first_maps_closer(make, fit, corpus_batch):
    """Check L: more than half of F in 200 updates on one batch."""
    distiller = make(lr=1e-2)
    batch = corpus_batch()

    def first() -> float:
        needs = Needs(hidden=frozenset({1}))
        with torch.no_grad():
            maps = [
                net(batch, needs).hidden[1][batch["attention_mask"].bool()] for net in (distiller.student, distiller.teacher)
            ]
        z = [((x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)).double() for x in maps]
        return float((z[0] - z[1]).square().mean())

    start = first()
    fit(distiller, [batch] * 600, callbacks=[Progressive(below=0.0)], gradient_clip_val=1.0)
    assert first() < 0.5 * start
