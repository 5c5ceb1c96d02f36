"""The one training loop, run by Lightning on tiny networks. The method is DistilBERT's where a method is needed."""

import copy
from functools import partial
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.testing import assert_close

from kd_lightning.data.batches import loader, training_batches
from kd_lightning.distiller import Distiller, check_precision, decay_groups
from kd_lightning.finite import Finite
from kd_lightning.losses import cosine_distance, kl_divergence
from kd_lightning.method.finetune import MaskedLM
from kd_lightning.reach import reached
from kd_lightning.run.checkpoint import Whole, read
from kd_lightning.terms import HardTargets, HiddenMatch, Projection, SoftTargets, masked_positions, real_positions
from kd_lightning.views import Needs


def terms() -> dict:
    return {
        "soft": SoftTargets(5.0, loss=partial(kl_divergence, temperature=2.0), rows=real_positions),
        "mlm": HardTargets(2.0, rows=masked_positions),
        "hidden": HiddenMatch(1.0, layers="uniform", loss=cosine_distance, projection=Projection("shared")),
    }


@pytest.fixture
def make(make_encoder, engine):
    def build(*, dropout: float = 0.0, seed: int = 1, teacher_dropout: float = 0.1, **other) -> Distiller:
        student = make_encoder(layers=2, hidden=16, seed=seed, dropout=dropout)
        teacher = make_encoder(layers=4, hidden=32, seed=0, dropout=teacher_dropout)
        torch.manual_seed(seed)
        return Distiller(terms=terms(), **engine(student, teacher, **other))

    return build


def test_the_teacher_stays_in_eval_whatever_train_says(make):
    distiller = make()
    distiller.teacher.train()
    for mode in (True, False, True):
        distiller.train(mode)
        assert not any(module.training for module in distiller.teacher.modules())
        assert all(module.training == mode for module in distiller.student.modules())


def test_the_teacher_sleeps_through_a_fit_and_the_student_is_awake(make, fit, corpus_batch):
    class Watch(L.Callback):
        seen: list[tuple[bool, bool]] = []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            awake = [any(m.training for m in network.modules()) for network in (module.student, module.teacher)]
            self.seen.append(tuple(awake))

    batches = [corpus_batch(seed=i) for i in range(2)]
    fit(make(), batches, validation=batches[:1], max_epochs=2, callbacks=[Watch()])
    assert Watch.seen == [(True, False)] * 4


def test_a_teacher_with_dropout_teaches_the_same_twice(make, corpus_batch):
    distiller, batch = make(teacher_dropout=0.5), corpus_batch()
    distiller.train()
    first, second = (distiller.objective(*distiller.views(batch), batch)[0] for _ in range(2))
    assert_close(first, second, rtol=0, atol=0)


def test_only_student_and_objective_are_in_the_optimizer(make, fit, corpus_batch):
    distiller = make()
    assert not any(p.requires_grad for p in distiller.teacher.parameters())
    before = copy.deepcopy(distiller.teacher.state_dict())
    trainer, _ = fit(distiller, [corpus_batch(seed=i) for i in range(3)])
    (optimizer,) = trainer.optimizers
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in distiller.teacher.parameters()}
    wanted = [*distiller.student.parameters(), *distiller.objective.parameters()]
    assert held == {id(p) for p in wanted}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(held)
    for name, tensor in distiller.teacher.state_dict().items():
        assert_close(tensor, before[name], rtol=0, atol=0)
    assert all(p.grad is None for p in distiller.teacher.parameters())


def test_every_student_parameter_gets_a_finite_gradient_and_no_teacher_parameter_one(make, corpus_batch):
    distiller, batch = make(), corpus_batch()
    loss = distiller.objective(*distiller.views(batch), batch)[0]
    loss.backward()
    without = {name for name, p in distiller.student.named_parameters() if p.grad is None}
    assert not without
    assert all(bool(p.grad.isfinite().all()) for p in distiller.student.parameters())
    assert all(p.grad is None for p in distiller.teacher.parameters())


def test_what_no_term_reads_is_in_no_optimizer_and_does_not_move(make_encoder, engine, fit, corpus_batch):
    """The first of two layers is compared: the second and the head learn nothing."""
    student, teacher = make_encoder(layers=2, seed=1), make_encoder(layers=4)
    distiller = Distiller(terms={"hidden": HiddenMatch(1.0, layers=[[1, 2]])}, **engine(student, teacher, weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    trainer, _ = fit(distiller, [corpus_batch(), corpus_batch(seed=1)])
    (optimizer,) = trainer.optimizers
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    learned = {name for name, p in student.named_parameters() if id(p) in held}
    assert {name for name, p in student.named_parameters() if p.grad is not None} == learned
    assert {name for name, p in student.named_parameters() if not torch.equal(p, before[name])} == learned
    still = before.keys() - learned
    assert {name.split(".")[1] for name in still} == {"bert", "cls"}
    assert all(name.startswith(("model.bert.encoder.layer.1.", "model.cls.")) for name in still)
    assert not [name for name in learned if name.startswith(("model.bert.encoder.layer.1.", "model.cls."))]


def test_what_learns_is_found_without_a_random_number_and_without_waking_or_moving_the_student(make_encoder, engine):
    student = make_encoder(layers=2, dropout=0.5)
    student.model.bert.encoder.layer[0].train()
    student.register_module("norm", torch.nn.BatchNorm1d(2))
    modes, state, random = [m.training for m in student.modules()], copy.deepcopy(student.state_dict()), torch.get_rng_state()
    needs = Needs(hidden=frozenset({1}))
    read = reached(student, needs)
    assert [m.training for m in student.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in student.parameters())
    assert len(read) == len(list(student.model.bert.encoder.layer[0].parameters())) + 5  # and the embeddings'


def test_what_a_teacher_shows_carries_no_graph(make, corpus_batch):
    distiller, batch = make(), corpus_batch()
    student, teacher = distiller.views(batch)
    assert student.hidden[2].requires_grad
    assert not teacher.hidden[4].requires_grad
    assert not teacher.logits(batch["rows"]).requires_grad


def test_a_checkpoint_holds_no_teacher_and_is_read_without_pickle(make, fit, corpus_batch, tmp_path):
    distiller = make()
    trainer, _ = fit(distiller, [corpus_batch(seed=i) for i in range(2)])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    names = set(checkpoint["state_dict"])
    assert not {name for name in names if "teacher" in name}
    expected = {f"student.{name}" for name in distiller.student.state_dict()}
    assert names == expected | {f"objective.{name}" for name in distiller.objective.state_dict()}
    assert any(name.endswith("projection.linears.all.weight") for name in names)
    # the teacher alone is larger than all that the file may hold
    held = {id(p) for p in distiller.teacher.parameters()}
    moments = sum(len(group["params"]) for group in checkpoint["optimizer_states"][0]["param_groups"])
    assert moments == len({id(p) for p in distiller.parameters()} - held)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_resuming_reproduces_the_next_losses_exactly(make, fit, corpus_batch, tmp_path, dropout):
    batches = [corpus_batch(seed=i) for i in range(3)]

    class SaveAfterTwoEpochs(L.Callback):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    _, whole = fit(make(dropout=dropout), batches, max_epochs=4, callbacks=[SaveAfterTwoEpochs()])
    torch.manual_seed(99)
    resumed = make(dropout=dropout, seed=7)  # other weights, a projection of its own
    _, rest = fit(resumed, batches, max_epochs=4, ckpt_path=str(tmp_path / "middle.ckpt"))
    assert len(whole) == 12
    assert rest == whole[6:]
    assert len(set(rest)) == 6


class Card:
    """The random state of one graphics card, as torch.cuda keeps it: dropout there draws from it."""

    def __init__(self, number: int) -> None:
        self.device = torch.device("cuda", number)
        self.generator = torch.Generator().manual_seed(number)

    def get_rng_state(self, device: torch.device) -> torch.Tensor:
        assert device == self.device
        return self.generator.get_state()

    def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
        assert device == self.device
        self.generator.set_state(state)

    def dropout(self) -> list[float]:
        return [*torch.rand(3, generator=self.generator).tolist(), *torch.rand(3).tolist()]


@pytest.mark.parametrize("rank", [0, 1])
def test_on_a_card_dropout_goes_on_where_each_process_stopped(rank, make, monkeypatch, tmp_path):
    card, distiller = Card(rank), make()
    monkeypatch.setattr(torch.cuda, "get_rng_state", card.get_rng_state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", card.set_rng_state)
    strategy = SimpleNamespace(root_device=card.device)
    monkeypatch.setattr(Distiller, "trainer", SimpleNamespace(global_rank=rank, world_size=2, strategy=strategy))
    monkeypatch.setattr(Distiller, "device", card.device)
    others = {0: lambda state: [state, state.flip(0)], 1: lambda state: [state.flip(0), state]}[rank]
    monkeypatch.setattr(distiller, "all_gather", lambda state: torch.stack(others(state)))
    card.dropout()
    checkpoint = {"state_dict": distiller.state_dict()}
    distiller.on_save_checkpoint(checkpoint)
    Whole().save_checkpoint(checkpoint, tmp_path / "last.ckpt")
    expected = card.dropout()
    assert card.dropout() != expected
    distiller.on_load_checkpoint(read(tmp_path / "last.ckpt"))
    assert card.dropout() == expected


class SixBatches(L.LightningDataModule):
    """Each epoch in an order of its own."""

    def __init__(self, make_batch, workers: int) -> None:
        super().__init__()
        self.make_batch, self.workers = make_batch, workers

    def train_dataloader(self):
        def collate(rows, _):
            return self.make_batch(seed=int(rows[0]))

        epoch = self.trainer.current_epoch
        batches = training_batches(np.full(6, 9), collate, batch_size=1, seed=0, epoch=epoch)
        return loader(batches, self.workers, self.trainer)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("steps", [2, 5, 6, 8])
def test_resuming_in_the_middle_of_an_epoch_goes_on_with_its_next_batch(make, fit, corpus_batch, tmp_path, steps, workers):
    """A run that is interrupted after any batch ends as if it had not been."""

    class Save(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == steps:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    options = {"max_epochs": 2, "reload_dataloaders_every_n_epochs": 1}
    full = make(dropout=0.1)
    _, whole = fit(full, SixBatches(corpus_batch, workers), callbacks=[Save()], **options)
    torch.manual_seed(99)
    resumed = make(dropout=0.1, seed=7)
    _, rest = fit(resumed, SixBatches(corpus_batch, workers), ckpt_path=str(tmp_path / "middle.ckpt"), **options)
    assert len(whole) == len(set(whole)) == 12
    assert rest == whole[steps:]
    for ours, expected in zip(resumed.student.parameters(), full.student.parameters(), strict=True):
        assert torch.equal(ours, expected)


def test_a_checkpoint_of_another_student_is_refused(make, fit, corpus_batch, tmp_path, make_encoder, engine):
    trainer, _ = fit(make(), [corpus_batch()])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    deeper = Distiller(terms=terms(), **engine(make_encoder(layers=4, hidden=16), make_encoder(layers=4)))
    with pytest.raises(ValueError, match=r"another network or stage than this one: student.* is missing in one of both"):
        fit(deeper, [corpus_batch()], max_epochs=2, ckpt_path=str(tmp_path / "last.ckpt"))


def test_the_loss_falls_on_a_fixed_batch(make, fit, corpus_batch):
    """DistilBERT, check L: more than 30 % in 50 steps."""
    distiller = make(lr=3e-3)
    _, losses = fit(distiller, [corpus_batch()] * 50)
    assert len(losses) == 50
    assert losses[-1] < 0.7 * losses[0]


def test_train_and_validation_losses_are_logged_by_term_and_unweighted(make, fit, corpus_batch):
    distiller, batch = make(lr=0.0, teacher_dropout=0.0), corpus_batch()
    trainer, losses = fit(distiller, [batch], validation=[batch])
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    names = ["loss", "loss/soft", "loss/mlm", "loss/hidden"]
    assert set(logged) == {f"{split}/{name}" for split in ("train", "val") for name in names}
    distiller.eval()
    _, parts = distiller.objective(*distiller.views(batch), batch)
    assert set(parts) == {"soft", "mlm", "hidden"}
    for name, part in parts.items():
        assert logged[f"train/loss/{name}"] == pytest.approx(part.item(), rel=1e-5)
        assert logged[f"val/loss/{name}"] == pytest.approx(part.item(), rel=1e-5)
    total = 5 * logged["train/loss/soft"] + 2 * logged["train/loss/mlm"] + logged["train/loss/hidden"]
    assert logged["train/loss"] == pytest.approx(total, rel=1e-5) == losses[0]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_trained_student_can_be_validated(make, fit, corpus_batch):
    """trainer.validate runs in inference mode, unlike the validation inside a fit."""
    distiller, batch = make(lr=0.0, teacher_dropout=0.0), corpus_batch()
    trainer, losses = fit(distiller, [batch])
    loader = torch.utils.data.DataLoader([batch], batch_size=None)
    (found,) = trainer.validate(distiller, loader, verbose=False)
    assert found["val/loss"] == pytest.approx(losses[0], rel=1e-5)


def test_without_a_teacher_the_student_learns_alone(make_encoder, engine, fit, corpus_batch):
    distiller = Distiller(
        terms={"mlm": HardTargets(1.0, rows=masked_positions)}, **engine(make_encoder(layers=2), None, lr=3e-3)
    )
    distiller.train()
    _, losses = fit(distiller, [corpus_batch()] * 20)
    assert losses[-1] < 0.8 * losses[0]


def test_a_teacher_that_nobody_asks_is_not_run(make_encoder, engine, corpus_batch, fixed):
    teacher = make_encoder(layers=2, seed=0)
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    distiller = Distiller(
        terms={"mlm": HardTargets(1.0, rows=masked_positions)}, **engine(make_encoder(layers=2, seed=1), teacher)
    )
    batch = corpus_batch()
    distiller.objective(*distiller.views(batch), batch)
    assert distiller.teacher_needs == Needs()
    assert calls == []


def test_an_impossible_pairing_fails_at_construction(make_encoder, engine):
    with pytest.raises(ValueError, match=r"4 teacher layers do not divide over 3 student layers"):
        Distiller(terms=terms(), **engine(make_encoder(layers=3), make_encoder(layers=4)))
    with pytest.raises(ValueError, match=r"vocabulary: the student's 97 tokens are not the teacher's 98"):
        Distiller(terms=terms(), **engine(make_encoder(layers=2), make_encoder(layers=4, vocabulary=98)))


def test_biases_and_norms_do_not_decay_and_matrices_do(make_encoder):
    student = make_encoder("bert", layers=2)
    decayed, exempt = decay_groups([student, Projection("shared")], 0.01)
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.01, 0.0)
    names = {id(p): name for name, p in student.named_parameters()}
    without = {names[id(p)] for p in exempt["params"]}
    for name in names.values():
        assert (name in without) == (name.endswith("bias") or "LayerNorm" in name), name
    assert len(decayed["params"]) + len(exempt["params"]) == len(names)


def test_a_parameter_shared_by_two_modules_is_optimized_once_and_a_frozen_one_never(make_encoder):
    student = make_encoder("bert", layers=1)
    student.model.bert.embeddings.position_embeddings.weight.requires_grad_(False)
    groups = decay_groups([student, student], 0.01)
    held = [id(p) for group in groups for p in group["params"]]
    assert len(held) == len(set(held)) == len(list(student.parameters())) - 1


class Stop(Exception):
    pass


class LookAtTheStart(L.Callback):
    """Notes the schedule before the first step, and ends the run there."""

    def on_train_start(self, trainer, module):
        self.updates = trainer.estimated_stepping_batches
        (config,) = trainer.lr_scheduler_configs
        self.interval, (self.factor, *_) = config.interval, config.scheduler.lr_lambdas
        raise Stop


def test_the_schedule_runs_over_all_updates(make, fit, corpus_batch):
    """DistilBERT, check K: 1,000 batches, 3 epochs, accumulation 50. The release counts 61 updates and 4 of warm-up, as it
    rounds up; Lightning ends an epoch with an update, so there are 20 an epoch: 60, and 5 % of them are 3."""
    look = LookAtTheStart()
    distiller = make(schedule="linear", warmup=0.05)
    with pytest.raises(Stop):
        fit(distiller, [corpus_batch()] * 1000, max_epochs=3, accumulate_grad_batches=50, callbacks=[look])
    assert look.updates == 60
    assert look.interval == "step"
    found = [look.factor(step) for step in (0, 1, 3, 4, 59, 60)]
    assert found == pytest.approx([0, 1 / 3, 1, 56 / 57, 1 / 57, 0])


def test_the_schedule_moves_at_every_update(make, fit, corpus_batch):
    distiller = make(lr=1e-2, schedule="linear", warmup=0.5)
    rates = []

    class Rates(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(distiller, [corpus_batch(seed=i) for i in range(4)], max_epochs=2, accumulate_grad_batches=2, callbacks=[Rates()])
    assert rates == pytest.approx([0, 0, 5e-3, 5e-3, 1e-2, 1e-2, 5e-3, 5e-3])


def test_a_step_of_plain_gradient_descent_is_as_long_as_the_clip(make, fit, corpus_batch):
    distiller = make(optimizer=partial(torch.optim.SGD, lr=1.0), weight_decay=0.0)
    before = [p.detach().clone() for p in (*distiller.student.parameters(), *distiller.objective.parameters())]
    fit(distiller, [corpus_batch()], gradient_clip_val=0.5)
    after = (*distiller.student.parameters(), *distiller.objective.parameters())
    moved = torch.cat([(a.detach() - b).flatten() for a, b in zip(after, before, strict=True)])
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-3)


def scaled() -> MixedPrecision:
    """A GradScaler on the CPU stands for trainer.precision=16-mixed on a GPU."""
    return MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))


def weights(distiller: Distiller) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in distiller.student.parameters()])


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_scaled_gradient_is_clipped_at_its_own_size(make, fit, corpus_batch, fused, algorithm):
    """Without dropout and at one seed a run in 16-mixed ends near the one in 32-true; clipped before it is unscaled, it would
    stand still beside SGD's steps, which are as long as the gradient."""
    ends = []
    for options in ({"precision": "32-true"}, {"plugins": [scaled()]}):
        distiller = make(optimizer=partial(torch.optim.SGD, lr=0.1, fused=fused), weight_decay=0.0, teacher_dropout=0.0)
        before = weights(distiller)
        clip = {"gradient_clip_val": 0.01 if algorithm == "value" else 0.5, "gradient_clip_algorithm": algorithm}
        fit(distiller, [corpus_batch(seed=i) for i in range(3)], **clip, **options)
        ends.append(weights(distiller) - before)
    assert ends[0].norm() > 0.01
    assert (ends[0] - ends[1]).norm() < 0.05 * ends[0].norm()


def test_clipping_by_value_bounds_each_step(make, fit, corpus_batch):
    distiller = make(optimizer=partial(torch.optim.SGD, lr=1.0), weight_decay=0.0)
    before = weights(distiller)
    fit(distiller, [corpus_batch()], gradient_clip_val=1e-3, gradient_clip_algorithm="value")
    assert (weights(distiller) - before).abs().max().item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true", 32, "bf16"])
@pytest.mark.filterwarnings("ignore:.*supported for historical reasons")
def test_a_precision_that_is_offered_teaches(make, fit, corpus_batch, precision):
    distiller = make(lr=3e-3)
    _, losses = fit(distiller, [corpus_batch()] * 30, precision=precision, gradient_clip_val=1.0)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_a_precision_that_loses_small_updates_is_refused(make, fit, corpus_batch, precision):
    with pytest.raises(ValueError, match=rf"trainer\.precision={precision}: .*Choose one of auto, 32-true"):
        fit(make(), [corpus_batch()], precision=precision)


def test_precisions_that_need_a_package_are_refused_by_name():
    for name in ("transformer-engine", "transformer-engine-float16", "8"):
        with pytest.raises(ValueError, match=f"trainer.precision={name}: "):
            check_precision(name)
    for name in ("auto", "16-mixed", 16, "32", 64, "bf16"):
        check_precision(name)


class Spoil(L.Callback):
    """Makes a network's weights NaN before a step."""

    def __init__(self, who: str, step: int) -> None:
        self.who, self.step = who, step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(getattr(module, self.who).parameters()).fill_(float("nan"))


@pytest.mark.parametrize(("who", "term"), [("student", "soft"), ("teacher", "soft")])
def test_a_loss_that_is_not_finite_ends_the_run_and_says_where_and_whose(make, fit, corpus_batch, who, term):
    batches = [corpus_batch(seed=i) for i in range(3)]
    words = rf"^train/loss/{term} is nan in epoch 1, step 4, as the {who}'s outputs are not finite"
    with pytest.raises(ValueError, match=words):
        fit(make(), batches, max_epochs=3, callbacks=[Spoil(who, 4)])


def test_a_teacher_that_is_not_finite_is_named_before_the_first_step(make, fit, corpus_batch):
    distiller = make()
    with torch.no_grad():
        next(distiller.teacher.parameters()).fill_(float("inf"))
    with pytest.raises(ValueError, match=r"^val/loss/soft is (nan|inf) in epoch 0, step 0, as the teacher's"):
        fit(distiller, [corpus_batch()], validation=[corpus_batch()], num_sanity_val_steps=-1)


class SpoilTheEnd(L.Callback):
    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == 2:
            with torch.no_grad():
                next(module.student.parameters()).view(-1)[0] = float("nan")


def test_weights_that_are_not_finite_at_the_end_are_refused(make, fit, corpus_batch):
    batches = [corpus_batch(seed=i) for i in range(2)]
    with pytest.raises(ValueError, match=r"1 of the student's weights are not finite after step 2"):
        fit(make(), batches, callbacks=[SpoilTheEnd()])


def test_a_checkpoint_never_holds_what_is_not_finite(make, fit, corpus_batch, tmp_path):
    class Save(L.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    with pytest.raises(ValueError, match="weights are not finite after step 2"):
        fit(make(), [corpus_batch(seed=i) for i in range(3)], callbacks=[SpoilTheEnd(), Save()])
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["1.ckpt"]


def test_losses_on_an_accelerator_are_looked_at_now_and_then():
    """The first that is not finite is named, with the step that it was in; a tensor without a device's name stands for one."""
    finite = Finite()
    elsewhere = [{"a": torch.tensor(1.0), "loss": torch.tensor(float("inf") if step == 3 else 2.0)} for step in range(5)]
    for step, values in enumerate(elsewhere):
        finite.unseen.append((f"step {step}", tuple(values), torch.stack(list(values.values()))))
    assert finite.look() == "loss is inf in step 3"
    assert finite.look() == ""
    assert finite.note("step 5", {"a": torch.tensor(float("nan")), "loss": torch.tensor(1.0)}) == "a is nan in step 5"


@pytest.mark.parametrize("options", [{"max_epochs": 0}, {"max_epochs": -1}])
def test_a_training_without_updates_or_without_an_end_is_refused(options, make_encoder, engine, fit, corpus_batch):
    distiller = MaskedLM(**engine(make_encoder(layers=1), None))
    with pytest.raises(ValueError, match=r"trainer.max_epochs=.*: these are (0|inf) updates. Give 1 or more, and an end"):
        fit(distiller, [corpus_batch()], **options)
