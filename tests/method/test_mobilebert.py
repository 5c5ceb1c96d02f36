"""The spec's acceptance checks D to F, I, J and L, and the equations of the stages."""

from functools import partial

import numpy as np
import pytest
import torch
from oracles import losses as oracle
from torch.testing import assert_close
from transformers import MobileBertForSequenceClassification

from kd_lightning.encoder import Encoder
from kd_lightning.losses import (
    feature_variance_error,
    mean_feature_error,
    mean_squared_error,
    normalised_squared_error,
    soft_cross_entropy,
)
from kd_lightning.method.mobilebert import LayerTransfer, MobileBERTTask, PreTrainingDistillation, layer_terms
from kd_lightning.terms import AttentionTransfer, HardTargets, SoftTargets, masked_positions
from kd_lightning.views import Needs, Readout, Spec, View

RELEASE = {"feature": 0.0, "normalised": 100.0, "mean": 5000.0, "variance": 5.0, "attention": 1.0}
WEIGHTS = {"feature": 3.0, "normalised": 100.0, "mean": 5000.0, "variance": 5.0, "attention": 2.0}
MAPS = (normalised_squared_error, mean_feature_error, feature_variance_error, mean_squared_error)
TASK = {"gold": 0.0, "soft": 0.0, "temperature": 1.0, "feature": 0.0, "attention": 0.0, "layers": "uniform"}


def transfer(valid_only: bool = True, layers="uniform", **weights):
    return partial(layer_terms, layers=layers, valid_only=valid_only, **RELEASE | weights)


def evaluate(distiller, batch) -> tuple[float, dict[str, float]]:
    loss, parts = distiller.objective(*distiller.views(batch), batch)
    return loss.item(), {name: part.item() for name, part in parts.items()}


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ((2.0, 1, 3, 4), (0.326680, 0.25, 2.25, 1.5)),
        ((2.0, 4, 6, 12), (0.0, 9.0, 10.5, 12.5)),  # twice the teacher
        ((4.0, 5, 6, 9), (0.0, 9.0, 0.0, 9.0)),  # the teacher and 3
        ((1.0, 2, 3, 6), (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_feature_maps_of_the_spec_by_hand(student, expected):
    """Check D: normalised, mean, variance and plain error against (1, 2, 3, 6)."""
    teacher = torch.tensor([[1.0, 2, 3, 6]])
    assert [loss(torch.tensor([student]), teacher).item() for loss in MAPS] == pytest.approx(expected, abs=2e-6)


def test_the_total_of_the_spec_by_hand():
    """Check D: 1293.917992, and a 24th of it in one phase of 24 blocks."""
    spec, batch = Spec(layers=1, hidden=4, heads=1, vocabulary=9), {"attention_mask": torch.ones(1, 1).long()}
    views = [View(hidden={1: torch.tensor([[row]])}) for row in ([2.0, 1, 3, 4], [1.0, 2, 3, 6])]
    for share, expected in ((1.0, 1293.917992), (1 / 24, 53.913250)):
        terms = transfer(attention=0.0)(share)
        total = 0.0
        for term in terms.values():
            if term.weight:
                term.bind(spec, spec)
                total += term.weight * term(*views, batch).item()
        assert total == pytest.approx(expected, rel=1e-5)


def test_reversed_maps_are_as_far_as_they_can_be():
    ours, theirs = torch.tensor([[4.0, 3, 2, 1]]), torch.tensor([[1.0, 2, 3, 4]])
    assert normalised_squared_error(ours, theirs).item() == pytest.approx(4, abs=1e-6)


def test_feature_losses_are_the_equations_and_the_plain_error_follows_from_them():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(5, 12, generator=generator).double() * s + m for s, m in ((2, 1), (3, -1)))
    s, t = ours.numpy(), theirs.numpy()
    z = [(x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (s, t)]
    normalised, mean, variance, plain = (loss(ours, theirs).item() for loss in MAPS)
    assert normalised == pytest.approx(((z[0] - z[1]) ** 2).mean(), rel=1e-5)
    assert mean == pytest.approx(((s.mean(1) - t.mean(1)) ** 2).mean(), rel=1e-5)
    assert variance == pytest.approx(np.abs(s.var(1) - t.var(1)).mean(), rel=1e-5)
    rest = np.mean((s.std(1) - t.std(1)) ** 2 + s.std(1) * t.std(1) * ((z[0] - z[1]) ** 2).mean(1))
    assert plain == pytest.approx(mean + rest, rel=1e-5)


def scores(rows: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """A query and a key whose product is this one score matrix."""
    return torch.tensor([[rows]], requires_grad=True), torch.eye(len(rows))[None, None]


def attend(student, teacher, mask, valid_only=True) -> torch.Tensor:
    length = len(mask[0])
    spec = Spec(layers=1, hidden=length, heads=1, vocabulary=9)
    term = AttentionTransfer(1, layers="uniform", valid_only=valid_only)
    term.bind(spec, spec)
    batch = {"input_ids": torch.zeros(1, length).long(), "attention_mask": torch.tensor(mask)}
    return term(View(attention={1: student}), View(attention={1: teacher}), batch)


def test_attention_of_the_spec_by_hand():
    """Check E: cross-entropy 0.693147 less the teacher's entropy 0.562335; gradient (0.25, -0.25) a row."""
    teacher = torch.tensor([0.0, 3.0]).log1p().tolist()
    teacher = [[0.0, float(np.log(3))]] * 2
    student = scores([[0.0, 0.0]] * 2)
    loss = attend(student, scores(teacher), [[1, 1]])
    assert loss.item() == pytest.approx(0.693147 - 0.562335, abs=2e-6)
    loss.backward()
    assert_close(student[0].grad, torch.tensor([[[[0.25, -0.25]] * 2]]) / 2)
    student = scores(teacher)
    same = attend(student, scores(teacher), [[1, 1]])
    same.backward()
    assert same.item() == pytest.approx(0, abs=1e-7)
    assert_close(student[0].grad, torch.zeros(1, 1, 2, 2))


def test_the_gradient_of_attention_transfer_is_that_of_the_releases_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(4, 4, generator=generator) for _ in range(2))
    student = scores(ours.tolist())
    attend(student, scores(theirs.tolist()), [[1, 1, 1, 1]]).backward()
    own = ours.clone().requires_grad_()
    (-(theirs.softmax(-1) * own.log_softmax(-1)).sum(-1).mean()).backward()
    assert_close(student[0].grad[0, 0], own.grad)


@pytest.mark.parametrize("valid_only", [False, True])
def test_nobody_attends_to_padding_and_padded_queries_count_only_officially(valid_only):
    student, teacher = [[1.0, 2, 9], [3, 0, 9], [5, 6, 9]], [[0.0, 2, -3], [1, 1, 7], [2, 2, 2]]
    s, t = (oracle.softmax(np.array(x)[:, :2]) for x in (student, teacher))
    rows = (t * np.log(t / s)).sum(1)
    found = attend(scores(student), scores(teacher), [[1, 1, 0]], valid_only)
    assert found.item() == pytest.approx(rows[:2].mean() if valid_only else rows.mean(), rel=1e-5)


def test_pre_training_distillation_of_the_spec_by_hand():
    """Check F: the mixed target of gold class 0 and the teacher; a uniform student costs ln 3 for every mixture."""
    spec = Spec(layers=1, hidden=3, heads=1, vocabulary=3)
    batch = {"rows": torch.tensor([1]), "labels": torch.tensor([0]), "input_ids": torch.zeros(1, 3).long()}

    def shown(logits):
        table = torch.tensor([[9.0, -9, 5], logits, [7.0, 7, -7]])  # only position 1 is to be predicted
        return View(readout=lambda rows: Readout(table[rows]))

    def cost(student, mlm, soft):
        total = 0.0
        for term in (
            HardTargets(mlm, rows=masked_positions),
            SoftTargets(soft, loss=soft_cross_entropy, rows=masked_positions),
        ):
            term.bind(spec, spec)
            total += term.weight * term(shown(student), shown([2.0, 0, 0]), batch).item()
        return total

    assert cost([1.0, 0, -1], 1, 0) == pytest.approx(0.407606, abs=1e-6)
    assert cost([1.0, 0, -1], 0, 1) == pytest.approx(0.727127, abs=1e-6)
    assert cost([1.0, 0, -1], 0.5, 0.5) == pytest.approx(0.567366, abs=1e-6)
    for mlm in (0.0, 0.3, 1.0):
        assert cost([0.0, 0, 0], mlm, 1 - mlm) == pytest.approx(np.log(3), abs=1e-6)


@pytest.mark.parametrize("valid_only", [False, True])
def test_the_layer_stage_is_the_equation_over_all_blocks(valid_only, make_bottleneck_pair, engine, corpus_batch):
    student, teacher = make_bottleneck_pair()
    distiller = LayerTransfer(transfer=transfer(valid_only, **WEIGHTS), **engine(student, teacher)).eval()
    batch = corpus_batch()
    mask = batch["attention_mask"].numpy().astype(bool)
    needs = Needs(frozenset({1, 2, 3}), frozenset({1, 2, 3}))
    with torch.no_grad():
        ours, theirs = student(batch, needs), teacher(batch, needs)
    rows = mask if valid_only else np.ones_like(mask)
    expected = dict.fromkeys(WEIGHTS, 0.0)
    for k in (1, 2, 3):
        s, t = (view.hidden[k].double().numpy()[rows] for view in (ours, theirs))
        z = [(x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (s, t)]
        expected["feature"] += ((s - t) ** 2).mean()
        expected["normalised"] += ((z[0] - z[1]) ** 2).mean()
        expected["mean"] += ((s.mean(1) - t.mean(1)) ** 2).mean()
        expected["variance"] += np.abs(s.var(1) - t.var(1)).mean()
        p = []
        for view in (ours, theirs):
            query, key = (x.double().numpy() for x in view.attention[k])
            products = np.where(mask[:, None, None], query @ key.swapaxes(-1, -2), -np.inf)
            p.append(oracle.softmax(products).swapaxes(1, 2)[rows])  # [N, A, S]
        with np.errstate(divide="ignore", invalid="ignore"):
            expected["attention"] += np.nansum(p[1] * np.log(p[1] / p[0])) / p[0][..., 0].size
    loss, parts = evaluate(distiller, batch)
    assert parts == pytest.approx(expected, rel=1e-4)
    assert loss == pytest.approx(sum(WEIGHTS[name] * part for name, part in expected.items()) / 3, rel=1e-4)
    assert (distiller.student_needs, distiller.teacher_needs) == (needs, needs)


def test_a_student_that_is_its_teacher_has_nothing_to_learn(make_bottleneck_pair, engine, corpus_batch):
    _, teacher = make_bottleneck_pair()
    _, twin = make_bottleneck_pair()
    loss, parts = evaluate(LayerTransfer(transfer=transfer(**WEIGHTS), **engine(twin, teacher)), corpus_batch())
    assert set(parts) == set(WEIGHTS)
    assert loss == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", WEIGHTS)
def test_more_padding_changes_no_term(name, make_bottleneck_pair, engine, corpus_batch):
    student, teacher = make_bottleneck_pair()
    distiller = LayerTransfer(transfer=transfer(**dict.fromkeys(WEIGHTS, 0.0) | {name: 1.0}), **engine(student, teacher))
    short, long = (evaluate(distiller, corpus_batch(padding=padding))[0] for padding in (1, 6))
    assert short > 1e-4
    assert long == pytest.approx(short, rel=1e-4)


def test_in_the_layer_stage_the_blocks_learn_and_nothing_else(make_bottleneck_pair, engine, fit, corpus_batch):
    student, teacher = make_bottleneck_pair()
    before = {name: p.detach().clone() for name, p in student.model.named_parameters()}
    theirs = {name: p.detach().clone() for name, p in teacher.model.named_parameters()}
    trainer, _ = fit(LayerTransfer(transfer=transfer(), **engine(student, teacher)), [corpus_batch(seed=i) for i in range(2)])
    moved = {name for name, p in student.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert moved == {name for name in before if ".encoder." in name}
    assert all(torch.equal(p, theirs[name]) for name, p in teacher.model.named_parameters())
    groups = trainer.optimizers[0].param_groups
    assert [(group["block"], group["weight_decay"]) for group in groups] == [(b, w) for b in (1, 2, 3) for w in (0.01, 0.0)]


def test_in_pre_training_distillation_everything_learns(make_bottleneck_pair, engine, corpus_batch):
    student, teacher = make_bottleneck_pair()
    given = {"mlm": 0.5, "soft": 0.5, "auxiliary": 0.0, "transfer": transfer()}
    distiller, batch = PreTrainingDistillation(**given, **engine(student, teacher)), corpus_batch()
    assert set(distiller.objective.terms) == {"mlm", "soft"}
    distiller.objective(*distiller.views(batch), batch)[0].backward()
    still = {name for name, p in student.model.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == set()


def test_pre_training_distillation_is_the_equation_and_the_layers_stand_beside_it(make_bottleneck_pair, engine, corpus_batch):
    student, teacher = make_bottleneck_pair()
    batch = corpus_batch()
    beside = LayerTransfer(transfer=transfer(), **engine(*make_bottleneck_pair()))
    layers, _ = evaluate(beside, batch)
    with torch.no_grad():
        logits = [net(batch, Needs(logits=True)).logits(batch["rows"]).double().numpy() for net in (student, teacher)]
    hard = oracle.cross_entropy(logits[0], batch["labels"].numpy())
    soft = oracle.soft_cross_entropy(*logits, 1.0)
    for auxiliary in (0.0, 1.0, 0.2):
        given = {"mlm": 0.3, "soft": 0.7, "auxiliary": auxiliary, "transfer": transfer()}
        loss, parts = evaluate(PreTrainingDistillation(**given, **engine(student, teacher)), batch)
        assert (parts["mlm"], parts["soft"]) == pytest.approx((hard, soft), rel=1e-5)
        assert loss == pytest.approx(0.3 * hard + 0.7 * soft + auxiliary * layers, rel=1e-4)


def test_pre_training_distillation_learns_its_words(make_bottleneck_pair, engine, fit, corpus_batch):
    """Check L: below ln V, where a student that knows nothing stands."""
    student, teacher = make_bottleneck_pair(init_from_teacher=False)
    given = {"mlm": 0.5, "soft": 0.5, "auxiliary": 0.0, "transfer": transfer()}
    distiller = PreTrainingDistillation(**given, **engine(student, teacher, lr=1e-2))
    _, losses = fit(distiller, [corpus_batch()] * 60)
    assert losses[0] > 0.9 * np.log(97) > losses[-1]


def test_a_bert_teaches_a_mobilebert_a_task_where_widths_and_heads_allow(
    make_bottleneck_pair, make_encoder, engine, task_batch
):
    labels = ("a", "b", "c")
    student = as_classifier(make_bottleneck_pair()[0], labels)
    batch = task_batch()
    teacher = make_encoder(layers=3, hidden=32, heads=4, labels=labels)
    given = TASK | {"gold": 1.0, "soft": 1.0, "feature": 1.0, "attention": 1.0}
    distiller = MobileBERTTask(**given, **engine(student, teacher))
    loss, parts = evaluate(distiller, batch)
    assert set(parts) == {"gold", "soft", "feature", "attention"}
    assert loss == pytest.approx(sum(parts.values()), rel=1e-5)
    wide = make_encoder(layers=3, hidden=48, heads=4, labels=labels)
    assert evaluate(MobileBERTTask(**TASK | {"soft": 1.0, "attention": 1.0}, **engine(student, wide)), batch)[0] > 0
    with pytest.raises(ValueError, match="hidden states: the student is 32 wide and the teacher 48"):
        MobileBERTTask(**TASK | {"feature": 1.0}, **engine(student, wide))
    other = make_encoder(layers=3, hidden=32, heads=2, labels=labels)
    assert evaluate(MobileBERTTask(**TASK | {"soft": 1.0, "feature": 1.0}, **engine(student, other)), batch)[0] > 0
    with pytest.raises(ValueError, match="attention heads: the student has 4 and the teacher 2"):
        MobileBERTTask(**TASK | {"attention": 1.0}, **engine(student, other))


def as_classifier(encoder, labels):
    config = encoder.model.config
    config.id2label, config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    return Encoder(MobileBertForSequenceClassification(config), encoder.tokenizer).eval()


def test_a_general_teacher_that_does_not_fit_is_refused(make_bottleneck_pair, make_encoder, engine):
    student, _ = make_bottleneck_pair()
    for teacher, words in (
        (make_encoder(layers=3, hidden=48), "hidden states: the student is 32 wide and the teacher 48"),
        (make_encoder(layers=3, heads=2), "attention heads: the student has 4 and the teacher 2"),
        (make_encoder(layers=4), "4 teacher layers do not divide over 3 student layers"),
    ):
        with pytest.raises(ValueError, match=words):
            LayerTransfer(transfer=transfer(), **engine(student, teacher))
    plain = make_encoder(layers=3)
    assert set(LayerTransfer(transfer=transfer(), **engine(student, plain)).objective.terms) == set(RELEASE) - {"feature"}
