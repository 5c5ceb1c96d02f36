"""The spec's acceptance checks B to J and N on the method itself."""

import copy

import numpy as np
import pytest
import torch
from oracles import losses as oracle
from torch.testing import assert_close
from transformers import BertForSequenceClassification

from kd_lightning.method.tinybert import PredictionDistillation, TransformerDistillation
from kd_lightning.views import Needs, Readout, Spec, View

PAPER = {
    "embedding": 1.0,
    "hidden": 1.0,
    "attention": 1.0,
    "layers": "uniform",
    "projection": "shared",
    "valid_only": False,
}
LABELS = ("yes", "no", "maybe")


def evaluate(distiller, batch) -> tuple[float, dict[str, float]]:
    loss, parts = distiller.objective(*distiller.views(batch), batch)
    return loss.item(), {name: part.item() for name, part in parts.items()}


@pytest.fixture
def networks(make_encoder):
    return make_encoder(layers=2, hidden=16, seed=1), make_encoder(layers=4, hidden=32, seed=0)


@pytest.mark.parametrize("valid_only", [False, True])
def test_the_general_stage_is_the_papers_equation(valid_only, networks, engine, corpus_batch):
    """Equations 7 to 9 in NumPy, over embeddings and the pairs (1, 2) and (2, 4): sums over layers."""
    student, teacher = networks
    distiller = TransformerDistillation(**PAPER | {"valid_only": valid_only}, **engine(student, teacher)).eval()
    batch = corpus_batch()
    mask = batch["attention_mask"].numpy()
    linear = distiller.objective.terms["hidden"].projection.linears["all"]
    weight, bias = (tensor.detach().double().numpy() for tensor in (linear.weight, linear.bias))
    wanted = Needs(frozenset(range(3)), frozenset({1, 2})), Needs(frozenset(range(5)), frozenset({1, 2, 3, 4}))
    with torch.no_grad():
        ours, theirs = student(batch, wanted[0]), teacher(batch, wanted[1])

    def hidden(s: int, t: int) -> float:
        rows = mask.astype(bool) if valid_only else np.ones_like(mask, bool)
        states = [view.hidden[k].double().numpy()[rows] for view, k in ((ours, s), (theirs, t))]
        return oracle.hidden_error(*states, weight, bias)

    def attention(s: int, t: int) -> float:
        pairs = [[tensor.double().numpy() for tensor in view.attention[k]] for view, k in ((ours, s), (theirs, t))]
        return (oracle.attention_valid if valid_only else oracle.attention_official)(*pairs, mask)

    loss, parts = evaluate(distiller, batch)
    expected = {
        "embedding": hidden(0, 0),
        "hidden": hidden(1, 2) + hidden(2, 4),
        "attention": attention(1, 2) + attention(2, 4),
    }
    assert parts == pytest.approx(expected, rel=1e-4)
    assert loss == pytest.approx(sum(expected.values()), rel=1e-4)


def test_the_projection_is_one_linear_for_embedding_and_hidden_layers(networks, engine):
    distiller = TransformerDistillation(**PAPER, **engine(*networks))
    assert sum(p.numel() for p in distiller.objective.parameters()) == 16 * 32 + 32
    embedding, hidden = (distiller.objective.terms[name].projection for name in ("embedding", "hidden"))
    assert embedding is hidden


@pytest.mark.parametrize(
    ("projection", "count"), [("per_layer", 3 * (16 * 32 + 32)), ("paper", 2 * 16 * 32), ("shared", 16 * 32 + 32)]
)
def test_every_projection_of_the_literature_can_be_chosen(projection, count, networks, engine):
    distiller = TransformerDistillation(**PAPER | {"projection": projection}, **engine(*networks))
    assert sum(p.numel() for p in distiller.objective.parameters()) == count


@pytest.mark.parametrize(("student", "count"), [(312, 240_384), (768, 590_592)])
def test_the_projection_has_the_papers_size(student, count, fixed, engine):
    """Check A, through the method, at the paper's widths."""
    small, large = Spec(4, student, 12, 3), Spec(12, 768, 12, 3)
    distiller = TransformerDistillation(**PAPER, **engine(fixed(small, View()), fixed(large, View())))
    assert sum(p.numel() for p in distiller.objective.parameters()) == count


@pytest.mark.parametrize(("student", "hidden"), [(4, [0, 3, 6, 9, 12]), (6, [0, 2, 4, 6, 8, 10, 12])])
def test_the_papers_layers_are_read(student, hidden, fixed, engine):
    """Check B."""
    networks = fixed(Spec(student, 8, 2, 3), View()), fixed(Spec(12, 8, 2, 3), View())
    distiller = TransformerDistillation(**PAPER, **engine(*networks))
    assert distiller.student_needs == Needs(frozenset(range(student + 1)), frozenset(range(1, student + 1)))
    assert distiller.teacher_needs == Needs(frozenset(hidden), frozenset(hidden[1:]))


def test_each_layer_counts_by_its_own_number(fixed, engine):
    """Layers that show their number: embedding (0 - 5)², then Σ (m - (10 g(m) + 5))² for both kinds."""

    def network(layers: int, factor: float, shift: float):
        size = (2, 3, 4)
        hidden = {k: torch.full(size, float(factor * k + shift)) for k in range(layers + 1)}
        split = (2, 2, 3, 2)
        pairs = {k: (torch.full(split, float(factor * k + shift)), torch.full(split, 0.5)) for k in range(1, layers + 1)}
        return fixed(Spec(layers, 4, 2, 3), View(hidden, pairs))

    distiller = TransformerDistillation(**PAPER, **engine(network(2, 1, 0), network(6, 10, 5)))
    linear = distiller.objective.terms["hidden"].projection.linears["all"]
    with torch.no_grad():
        linear.weight.copy_(torch.eye(4))
        linear.bias.zero_()
    batch = {"input_ids": torch.zeros(2, 3).long(), "attention_mask": torch.ones(2, 3).long()}
    both = (1 - 35) ** 2 + (2 - 65) ** 2
    assert evaluate(distiller, batch)[1] == pytest.approx({"embedding": 25, "hidden": both, "attention": both}, rel=1e-5)


@pytest.mark.parametrize("valid_only", [False, True])
def test_a_perfect_student_has_nothing_to_learn(valid_only, make_encoder, engine, corpus_batch):
    """Check I: the same network, an identity for a projection."""
    teacher = make_encoder(layers=2)
    numbers = PAPER | {"valid_only": valid_only}
    distiller = TransformerDistillation(**numbers, **engine(copy.deepcopy(teacher), teacher)).eval()
    batch = corpus_batch()
    assert evaluate(distiller, batch)[1]["hidden"] > 0.01
    linear = distiller.objective.terms["hidden"].projection.linears["all"]
    with torch.no_grad():
        linear.weight.copy_(torch.eye(32))
        linear.bias.zero_()
    _, parts = evaluate(distiller, batch)
    assert parts == pytest.approx({"embedding": 0, "hidden": 0, "attention": 0}, abs=1e-5)


def test_padding_counts_in_the_official_form_and_not_in_the_other(networks, engine, corpus_batch):
    """Check I, through the networks: four more columns of padding."""
    for valid_only in (False, True):
        numbers = PAPER | {"valid_only": valid_only}
        torch.manual_seed(0)
        distiller = TransformerDistillation(**numbers, **engine(*networks)).eval()
        short, wide = (evaluate(distiller, corpus_batch(padding=padding))[1] for padding in (0, 4))
        assert set(short) == {"embedding", "hidden", "attention"}
        for name in short:
            assert (short[name] == pytest.approx(wide[name], rel=1e-4)) == valid_only, name


@pytest.mark.parametrize("off", ["embedding", "hidden", "attention"])
def test_each_row_of_the_ablation_is_one_weight(off, networks, engine, corpus_batch):
    distiller = TransformerDistillation(**PAPER | {off: 0.0}, **engine(*networks)).eval()
    _, parts = evaluate(distiller, corpus_batch())
    assert set(parts) == {"embedding", "hidden", "attention"} - {off}
    assert distiller.student_needs.hidden == {"embedding": {1, 2}, "hidden": {0}, "attention": {0, 1, 2}}[off]
    assert distiller.student_needs.attention == (set() if off == "attention" else {1, 2})


@pytest.mark.parametrize("layers", ["top", "bottom", [[1, 1], [2, 3]]])
def test_other_layer_maps_are_one_word(layers, networks, engine):
    distiller = TransformerDistillation(**PAPER | {"layers": layers}, **engine(*networks))
    expected = {"top": {3, 4}, "bottom": {1, 2}}.get(str(layers), {1, 3})
    assert distiller.teacher_needs.attention == expected
    assert distiller.teacher_needs.hidden == expected | {0}


def without_gradient(network) -> set[str]:
    return {name for name, p in network.named_parameters() if p.grad is None}


@pytest.mark.parametrize("labels", [(), LABELS])
def test_transformer_distillation_reaches_the_encoder_and_no_head(labels, make_encoder, engine, corpus_batch, task_batch):
    """Check J: neither pooler nor classifier nor masked LM head learns, the projection does."""
    student, teacher = (make_encoder(labels=labels, layers=n, hidden=h, seed=n) for n, h in ((2, 16), (4, 32)))
    distiller = TransformerDistillation(**PAPER, **engine(student, teacher))
    batch = task_batch() if labels else corpus_batch()
    distiller.objective(*distiller.views(batch), batch)[0].backward()
    inside = {f"model.bert.{kind}" for kind in ("embeddings", "encoder")}
    reached = {name for name, _ in student.named_parameters()} - without_gradient(student)
    # the last block's output layer is reached too: its output is hidden layer 2
    assert reached == {n for n, _ in student.named_parameters() if ".".join(n.split(".")[:3]) in inside}
    assert without_gradient(distiller.objective) == set()
    assert without_gradient(teacher) == {name for name, _ in teacher.named_parameters()}


def test_prediction_distillation_reaches_encoder_pooler_and_classifier(make_encoder, engine, task_batch):
    student, teacher = (make_encoder(labels=LABELS, layers=n, seed=n) for n in (2, 4))
    distiller = PredictionDistillation(prediction=1.0, gold=0.0, temperature=1.0, **engine(student, teacher))
    batch = task_batch()
    distiller.objective(*distiller.views(batch), batch)[0].backward()
    assert without_gradient(student) == set()
    assert without_gradient(teacher) == {name for name, _ in teacher.named_parameters()}
    assert list(distiller.objective.parameters()) == []


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_prediction_stage_is_equation_10(temperature, make_encoder, engine, task_batch):
    student, teacher = (make_encoder(labels=LABELS, layers=2, seed=seed) for seed in (1, 2))
    numbers = {"prediction": 1.0, "gold": 0.0, "temperature": temperature}
    distiller = PredictionDistillation(**numbers, **engine(student, teacher)).eval()
    batch = task_batch()
    with torch.no_grad():
        views = [network(batch, Needs(logits=True)) for network in (student, teacher)]
        logits = [view.logits(torch.arange(4)).double().numpy() for view in views]
    loss, parts = evaluate(distiller, batch)
    assert parts == {"prediction": pytest.approx(oracle.soft_cross_entropy(*logits, temperature), rel=1e-5)}
    assert loss == parts["prediction"]


def test_the_prediction_stage_by_hand(fixed, engine):
    """Check F: two examples of three classes."""

    def network(logits):
        return fixed(Spec(2, 4, 2, 3, labels=LABELS), View(readout=lambda rows: Readout(logits[rows])))

    student, teacher = torch.tensor([[1.0, 1, 0], [-1, 0, 2]]), torch.tensor([[2.0, 0, -1], [0, 1, 0]])
    numbers = {"prediction": 1.0, "gold": 0.0, "temperature": 1.0}
    distiller = PredictionDistillation(**numbers, **engine(network(student), network(teacher)))
    batch = {"input_ids": torch.zeros(2, 3).long(), "labels": torch.tensor([0, 1])}
    assert evaluate(distiller, batch)[0] == pytest.approx(1.430955, abs=1e-6)


def test_a_regression_matches_the_teachers_scores_and_never_sees_gold(make_encoder, engine, task_batch):
    student, teacher = (make_encoder(labels=("similarity",), layers=2, seed=seed) for seed in (1, 2))
    numbers = {"prediction": 1.0, "gold": 0.0, "temperature": 1.0}
    distiller = PredictionDistillation(**numbers, **engine(student, teacher)).eval()
    batch = task_batch(classes=1)
    with torch.no_grad():
        ours, theirs = (n(batch, Needs(logits=True)).logits(torch.arange(4)) for n in (student, teacher))
    expected = (ours - theirs).square().mean().item()
    assert evaluate(distiller, batch)[0] == pytest.approx(expected, rel=1e-5)
    assert evaluate(distiller, batch | {"labels": torch.full((4,), 50.0)})[0] == pytest.approx(expected, rel=1e-5)


def test_gold_labels_are_the_ablation_without_the_prediction_term(make_encoder, engine, task_batch):
    student, teacher = (make_encoder(labels=LABELS, layers=2, seed=seed) for seed in (1, 2))
    numbers = {"prediction": 0.0, "gold": 1.0, "temperature": 1.0}
    distiller = PredictionDistillation(**numbers, **engine(student, teacher)).eval()
    batch = task_batch()
    with torch.no_grad():
        logits = student(batch, Needs(logits=True)).logits(torch.arange(4)).double().numpy()
    expected = oracle.cross_entropy(logits, batch["labels"].numpy())
    assert evaluate(distiller, batch)[1] == {"gold": pytest.approx(expected, rel=1e-5)}
    assert distiller.teacher_needs == Needs()


def test_the_exported_student_is_a_plain_bert_classifier(make_encoder, engine, fit, task_batch, tmp_path):
    """Check J: no projection in it, and identical logits after loading."""
    student, teacher = (make_encoder(labels=LABELS, layers=n, hidden=h, seed=n) for n, h in ((2, 16), (4, 32)))
    batches = [task_batch(seed=i) for i in range(2)]
    fit(TransformerDistillation(**PAPER, **engine(student, teacher)), batches)
    fit(PredictionDistillation(prediction=1.0, gold=0.0, temperature=1.0, **engine(student, teacher)), batches)
    student.eval().model.save_pretrained(tmp_path)
    plain, report = BertForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["missing_keys"]
    assert not any("linears" in name or "projection" in name for name in plain.state_dict())
    inputs = {name: batches[0][name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        ours = student(batches[0], Needs(logits=True)).logits(torch.arange(4))
        assert_close(plain.eval()(**inputs).logits, ours, rtol=1e-5, atol=1e-6)


def test_the_loss_falls_on_a_fixed_batch(networks, engine, fit, corpus_batch):
    distiller = TransformerDistillation(**PAPER, **engine(*networks, lr=3e-3))
    _, losses = fit(distiller, [corpus_batch()] * 50)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("numbers", "student", "words"),
    [
        ({}, {"heads": 2}, r"attention heads: the student has 2 and the teacher 4"),
        ({}, {"layers": 3}, r"4 teacher layers do not divide over 3 student layers"),
        ({}, {"vocabulary": 50}, r"vocabulary: the student's 50 tokens are not the teacher's 97"),
        ({"layers": [[1, 9]]}, {}, r"layer pair \[1,9\]"),
        ({"projection": "none"}, {}, r"projection 'none' is unknown"),
        ({"hidden": -1.0}, {}, r"weight of 'hidden': -1\.0 is negative"),
    ],
)
def test_what_does_not_fit_together_is_refused(numbers, student, words, make_encoder, engine):
    """Check N, and the maps."""
    small = make_encoder(**{"layers": 2, "hidden": 16, "seed": 1} | student)
    with pytest.raises(ValueError, match=words):
        TransformerDistillation(**PAPER | numbers, **engine(small, make_encoder()))


def test_heads_may_differ_where_no_attention_is_compared(make_encoder, engine, corpus_batch):
    small = make_encoder(layers=2, hidden=16, heads=2, seed=1)
    distiller = TransformerDistillation(**PAPER | {"attention": 0.0}, **engine(small, make_encoder()))
    assert set(evaluate(distiller, corpus_batch())[1]) == {"embedding", "hidden"}


@pytest.mark.parametrize("labels", [("yes", "no"), ("no", "yes", "maybe")])
def test_a_teacher_of_other_labels_is_refused(labels, make_encoder, engine):
    student, teacher = make_encoder(labels=LABELS, layers=2), make_encoder(labels=labels, layers=2)
    with pytest.raises(ValueError, match=r"labels: the student's are .*same names in the same order"):
        PredictionDistillation(prediction=1.0, gold=0.0, temperature=1.0, **engine(student, teacher))
