"""Every term: padding, the layer map by arithmetic, equality, refusals."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from oracles import losses as oracle
from torch.testing import assert_close

from kd_lightning.losses import cosine_distance, kl_divergence, mean_squared_error, soft_cross_entropy
from kd_lightning.terms import (
    AttentionMatch,
    AttentionTransfer,
    HardTargets,
    HiddenMatch,
    Projection,
    SoftTargets,
    all_positions,
    examples,
    labelled_examples,
    masked_positions,
    real_positions,
)
from kd_lightning.views import Needs, Readout, Spec, View

STUDENT = Spec(layers=2, hidden=4, heads=2, vocabulary=11)
TEACHER = Spec(layers=4, hidden=6, heads=2, vocabulary=11)
STORED = replace(TEACHER, stored=True)
SAME = Spec(layers=2, hidden=6, heads=2, vocabulary=11)
KL = partial(kl_divergence, temperature=2.0)

COUNT_REAL = {
    "soft": lambda: SoftTargets(1, loss=KL, rows=real_positions),
    "soft on masked positions": lambda: SoftTargets(1, loss=KL, rows=masked_positions),
    "soft cross-entropy": lambda: SoftTargets(1, loss=soft_cross_entropy, rows=real_positions),
    "squared logits": lambda: SoftTargets(1, loss=mean_squared_error, rows=real_positions),
    "hard": lambda: HardTargets(1, rows=masked_positions),
    "hidden": lambda: HiddenMatch(1, layers=[[0, 0], [1, 2], [2, 4]], projection=Projection("shared")),
    "cosine": lambda: HiddenMatch(1, layers="last", loss=cosine_distance, projection=Projection("paper")),
    "attention": lambda: AttentionMatch(1, layers="uniform", valid_only=True),
}


def bound(term, student=STUDENT, teacher=TEACHER):
    torch.manual_seed(3)
    term.bind(student, teacher)
    return term


def with_padding(view: View, mask: torch.Tensor, fill: float) -> View:
    """The view in which every padded position shows something else."""

    def filled(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return torch.where(places.bool(), tensor, torch.full_like(tensor, fill))

    heads = mask[:, None, :, None]
    hidden = {k: filled(h, mask[..., None]) for k, h in view.hidden.items()}
    attention = {k: (filled(q, heads), filled(key, heads)) for k, (q, key) in view.attention.items()}
    head = view.readout(torch.tensor([0]))
    last = hidden[max(hidden)]
    return View(hidden, attention, lambda rows: Readout(last.flatten(0, 1)[rows], head.weight, head.bias))


def longer(view: View, more: int) -> View:
    """The view of the same sequences, padded further, with ones."""

    def pad(tensor: torch.Tensor) -> torch.Tensor:
        filler = torch.ones(*tensor.shape[:-2], more, tensor.shape[-1])
        return torch.cat([tensor, filler], dim=-2)

    hidden = {k: pad(h) for k, h in view.hidden.items()}
    head = view.readout(torch.tensor([0]))
    last = hidden[max(hidden)]
    return View(
        hidden,
        {k: (pad(q), pad(key)) for k, (q, key) in view.attention.items()},
        lambda rows: Readout(last.flatten(0, 1)[rows], head.weight, head.bias),
    )


@pytest.fixture
def views(corpus_batch, make_view):
    batch = corpus_batch(vocabulary=11)
    return batch, make_view(batch, seed=1, layers=2, hidden=4), make_view(batch, seed=2, layers=4, hidden=6)


@pytest.mark.parametrize("name", COUNT_REAL)
def test_what_padded_positions_show_changes_nothing(name, views):
    batch, student, teacher = views
    term, mask = bound(COUNT_REAL[name]()), batch["attention_mask"]
    expected = term(student, teacher, batch)
    assert expected.item() > 0.01
    for fill in (0.0, 7.0, -30.0):
        value = term(with_padding(student, mask, fill), with_padding(teacher, mask, -2 * fill), batch)
        assert_close(value, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", COUNT_REAL)
def test_more_padding_changes_nothing(name, views, corpus_batch):
    batch, student, teacher = views
    term = bound(COUNT_REAL[name]())
    value = term(longer(student, 5), longer(teacher, 5), corpus_batch(padding=5, vocabulary=11))
    exact = name != "attention"  # its sums run over more zeros, in another order
    assert_close(value, term(student, teacher, batch), rtol=0 if exact else 1e-5, atol=0)


@pytest.mark.parametrize("name", COUNT_REAL)
def test_every_real_position_counts_where_the_rows_say_so(name, views):
    """No gradient is missing at a position that counts, and none is there at another."""
    batch, student, teacher = views
    last, attention = student.hidden[2].requires_grad_(), student.attention[2][1].requires_grad_()
    term = bound(COUNT_REAL[name]())
    grads = torch.autograd.grad(term(student, teacher, batch), [last, attention], allow_unused=True)
    mask = batch["attention_mask"].bool()
    if name in ("hard", "soft on masked positions"):
        mask = torch.zeros(mask.numel(), dtype=torch.bool).scatter(0, batch["rows"], True).view_as(mask)
    touched = grads[1].abs().sum((1, 3)) if name == "attention" else grads[0].abs().sum(-1)
    assert torch.equal(touched > 0, mask)


def test_official_hidden_states_count_padding(views, make_view):
    """The mean over all B · L · D entries, as TinyBERT's release takes it."""
    batch, student, teacher = views
    term = bound(HiddenMatch(1, layers=[[0, 0], [1, 2]], rows=all_positions, projection=Projection("shared")))
    linear = term.projection.linears["all"]
    weight, bias = linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()
    expected = sum(
        oracle.hidden_error(student.hidden[s].double().numpy(), teacher.hidden[t].double().numpy(), weight, bias)
        for s, t in ((0, 0), (1, 2))
    )
    assert term(student, teacher, batch).item() == pytest.approx(expected, rel=1e-5)
    padded = with_padding(student, batch["attention_mask"], 5.0)
    assert abs(term(padded, teacher, batch).item() - expected) > 0.1


def test_official_attention_counts_padded_queries_in_full_and_masked_keys_as_zeros(views):
    batch, student, teacher = views
    mask = batch["attention_mask"].numpy()
    term = bound(AttentionMatch(1, layers="uniform", valid_only=False))
    numbers = {
        "student": {k: [t.double().numpy() for t in pair] for k, pair in student.attention.items()},
        "teacher": {k: [t.double().numpy() for t in pair] for k, pair in teacher.attention.items()},
    }
    expected = sum(oracle.attention_official(numbers["student"][s], numbers["teacher"][t], mask) for s, t in ((1, 2), (2, 4)))
    assert term(student, teacher, batch).item() == pytest.approx(expected, rel=1e-5)
    valid = bound(AttentionMatch(1, layers="uniform", valid_only=True))
    expected = sum(oracle.attention_valid(numbers["student"][s], numbers["teacher"][t], mask) for s, t in ((1, 2), (2, 4)))
    assert valid(student, teacher, batch).item() == pytest.approx(expected, rel=1e-5)


def test_official_attention_shrinks_when_masked_columns_are_appended(views, corpus_batch):
    """Appended queries that are zero add nothing to the sum; the denominator grows from 8² to 16²."""
    batch, student, teacher = views
    term = bound(AttentionMatch(1, layers="uniform", valid_only=False))
    wide = corpus_batch(padding=8, vocabulary=11)

    def pad(view: View) -> View:
        pairs = {k: tuple(torch.nn.functional.pad(t, (0, 0, 0, 8)) for t in pair) for k, pair in view.attention.items()}
        return View(attention=pairs)

    ratio = term(pad(student), pad(teacher), wide) / term(student, teacher, batch)
    assert ratio.item() == pytest.approx(0.25, rel=1e-5)


def scores(rows: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """A query and a key whose product is this one score matrix."""
    return torch.tensor([[rows]]), torch.eye(len(rows))[None, None]


@pytest.mark.parametrize(
    ("student", "teacher", "official", "valid"),
    [
        ([[1.0, 1, 1]] * 3, [[0.0, 0, 0]] * 3, 6 / 9, 1.0),
        ([[1.0, 2, 9], [3, 4, 9], [5, 6, 9]], [[0.0, 2, -3], [1, 1, 7], [2, 2, 2]], 39 / 9, 14 / 4),
    ],
)
def test_attention_of_the_spec_by_hand(student, teacher, official, valid):
    """TinyBERT, checks C and D: three positions, the third padded."""
    batch = {"input_ids": torch.tensor([[5, 6, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    spec = Spec(layers=1, hidden=3, heads=1, vocabulary=11)
    views = View(attention={1: scores(student)}), View(attention={1: scores(teacher)})
    for valid_only, expected in ((False, official), (True, valid)):
        term = bound(AttentionMatch(1, layers="uniform", valid_only=valid_only), spec, spec)
        assert term(*views, batch).item() == pytest.approx(expected, abs=1e-6)


def test_hidden_states_with_a_projection_by_hand():
    """TinyBERT, check E: two layers, one shared linear, a sum of two means."""
    term = HiddenMatch(1, layers=[[0, 0], [1, 1]], rows=all_positions, projection=Projection("shared"))
    term.bind(Spec(layers=1, hidden=2, heads=1, vocabulary=11), Spec(layers=1, hidden=3, heads=1, vocabulary=11))
    linear = term.projection.linears["all"]
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 1]]))
        linear.bias.copy_(torch.tensor([0.0, 0, 0.5]))
    student = View(hidden={0: torch.tensor([[[1.0, 2], [0, -1]]]), 1: torch.tensor([[[2.0, 0], [1, 1]]])})
    teacher = View(hidden={0: torch.tensor([[[1.0, 2, 3], [0, 0, 0]]]), 1: torch.tensor([[[2.0, 1, 2], [1, 1, 1]]])})
    batch = {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, 2).long()}
    assert term(student, teacher, batch).item() == pytest.approx(0.833333, abs=1e-6)


def numbered(layers: int, factor: float, hidden: int = 6, heads: int = 2) -> View:
    """Each layer filled with its own number times a factor; attention scores too."""
    shape, split = (3, 8, hidden), (3, heads, 8, hidden // heads)
    return View(
        hidden={k: torch.full(shape, factor * k) for k in range(layers + 1)},
        attention={k: (torch.full(split, factor * k), torch.full(split, heads / hidden)) for k in range(1, layers + 1)},
    )


MAPS = {
    "uniform": [(1, 2), (2, 4), (3, 6)],
    "top": [(1, 4), (2, 5), (3, 6)],
    "bottom": [(1, 1), (2, 2), (3, 3)],
    "alternate": [(1, 1), (2, 3), (3, 5)],
    "last": [(3, 6)],
    "pairs": [(2, 1), (3, 5)],
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("kind", ["hidden", "attention", "attention, valid only"])
def test_the_loss_is_arithmetic_on_the_layer_map(kind, name, corpus_batch):
    """Student layer s shows s and teacher layer t shows 10 t, so a pair costs (s - 10 t)²."""
    layers = [list(pair) for pair in MAPS[name]] if name == "pairs" else name
    spec, deep = Spec(layers=3, hidden=6, heads=2, vocabulary=11), Spec(layers=6, hidden=6, heads=2, vocabulary=11)
    make = HiddenMatch if kind == "hidden" else partial(AttentionMatch, valid_only="valid" in kind)
    term = make(1, layers=layers)
    term.bind(spec, deep)
    batch = corpus_batch(vocabulary=11)
    if kind == "attention":
        batch["attention_mask"] = torch.ones(3, 8).long()
    expected = sum((s - 10 * t) ** 2 for s, t in MAPS[name])
    assert term(numbered(3, 1.0), numbered(6, 10.0), batch).item() == pytest.approx(expected, rel=1e-4)
    places = [set(side) for side in zip(*MAPS[name], strict=True)]
    found = [needs.hidden if kind == "hidden" else needs.attention for needs in term.needs]
    assert found == places


def test_the_embedding_layer_can_be_paired(corpus_batch):
    term = bound(HiddenMatch(1, layers=[[0, 1], [1, 0]]), SAME, SAME)
    view = numbered(2, 1.0), numbered(2, 10.0)
    assert term(*view, corpus_batch(vocabulary=11)).item() == pytest.approx(10**2 + 1**2)


def test_the_last_cosine_is_between_the_last_layers(corpus_batch):
    """Layer k of the student points to 5 k degrees, of the teacher to 20 k degrees."""

    def turned(layers: int, degrees: float) -> View:
        angles = torch.deg2rad(torch.arange(layers + 1) * degrees)
        vectors = torch.stack([angles.cos(), angles.sin()], dim=-1)
        return View(hidden={k: vectors[k].expand(3, 8, 2) for k in range(layers + 1)})

    term = HiddenMatch(1, layers="last", loss=cosine_distance)
    term.bind(Spec(layers=2, hidden=2, heads=1, vocabulary=11), Spec(layers=5, hidden=2, heads=1, vocabulary=11))
    value = term(turned(2, 5.0), turned(5, 20.0), corpus_batch(vocabulary=11))
    assert value.item() == pytest.approx(1 - np.cos(np.deg2rad(90)), abs=1e-6)
    assert [needs.hidden for needs in term.needs] == [{2}, {5}]


EQUAL = {
    "soft": lambda: SoftTargets(1, loss=KL, rows=real_positions),
    "squared logits": lambda: SoftTargets(1, loss=mean_squared_error, rows=real_positions),
    "hidden": lambda: HiddenMatch(1, layers=[[0, 0], [1, 1], [2, 2]]),
    "official hidden": lambda: HiddenMatch(1, layers=[[0, 0], [1, 1], [2, 2]], rows=all_positions),
    "cosine": lambda: HiddenMatch(1, layers="last", loss=cosine_distance),
    "attention": lambda: AttentionMatch(1, layers="uniform", valid_only=True),
    "official attention": lambda: AttentionMatch(1, layers="uniform", valid_only=False),
}


@pytest.mark.parametrize("name", EQUAL)
def test_a_perfect_student_has_nothing_to_learn(name, corpus_batch, make_view):
    batch = corpus_batch(vocabulary=11)
    view, other = (make_view(batch, seed=seed, layers=2, hidden=6) for seed in (1, 2))
    term = bound(EQUAL[name](), SAME, SAME)
    assert term(view, copy.copy(view), batch).item() == pytest.approx(0, abs=1e-5)
    assert term(other, view, batch).item() > 0.1


@pytest.mark.parametrize("name", [*EQUAL, "hard"])
def test_the_order_of_the_sequences_changes_nothing(name, corpus_batch, make_view):
    batch = corpus_batch(vocabulary=11)
    student, teacher = (make_view(batch, seed=seed, layers=2, hidden=6) for seed in (1, 2))
    order = torch.tensor([2, 0, 1])
    term = bound(EQUAL.get(name, COUNT_REAL.get(name))(), SAME, SAME)

    def permuted(view: View) -> View:
        hidden = {k: h[order] for k, h in view.hidden.items()}
        head = view.readout(torch.tensor([0]))
        pairs = {k: (q[order], key[order]) for k, (q, key) in view.attention.items()}
        return View(hidden, pairs, lambda rows: Readout(hidden[2].flatten(0, 1)[rows], head.weight, head.bias))

    shuffled = {name: value[order] for name, value in batch.items() if value.ndim == 2}
    place = torch.empty(3, dtype=torch.long).scatter(0, order, torch.arange(3))
    rows = place[batch["rows"] // 8] * 8 + batch["rows"] % 8
    moved = term(permuted(student), permuted(teacher), shuffled | {"rows": rows, "labels": batch["labels"]})
    assert_close(moved, term(student, teacher, batch), rtol=1e-5, atol=1e-6)


def test_soft_targets_are_the_equation_on_real_positions(views):
    batch, student, teacher = views
    rows = real_positions(batch)
    value = bound(SoftTargets(1, loss=KL, rows=real_positions))(student, teacher, batch)
    logits = [view.logits(rows).double().numpy() for view in (student, teacher)]
    assert len(rows) == 8 + 5 + 3
    assert value.item() == pytest.approx(oracle.kl_divergence(*logits, 2.0), rel=1e-5)


def test_hard_targets_of_a_corpus_are_one_a_row(views):
    batch, student, _ = views
    value = bound(HardTargets(1, rows=masked_positions))(student, View(), batch)
    logits = student.logits(batch["rows"]).double().numpy()
    assert value.item() == pytest.approx(oracle.cross_entropy(logits, batch["labels"].numpy()), rel=1e-5)


def test_hard_targets_of_a_task_leave_unlabelled_examples_out(task_batch, make_view):
    batch = task_batch()
    view = make_view(batch, seed=1, classes=3)
    batch["labels"][1] = -100
    term = HardTargets(1, rows=labelled_examples)
    term.bind(Spec(layers=2, hidden=6, heads=2, vocabulary=11, labels=("a", "b", "c")), None)
    chosen = [0, 2, 3]
    expected = oracle.cross_entropy(view.logits(torch.tensor(chosen)).double().numpy(), batch["labels"][chosen].numpy())
    assert term(view, View(), batch).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [3, 1])
def test_a_batch_without_a_label_costs_nothing_and_moves_nothing(classes, task_batch, fixed):
    batch = task_batch(classes=classes)
    batch["labels"].fill_(float("nan") if classes == 1 else -100)
    logits = torch.randn(4, classes, requires_grad=True)
    term = HardTargets(1, rows=labelled_examples)
    term.bind(Spec(layers=2, hidden=6, heads=2, vocabulary=11, labels=tuple("abc"[:classes])), None)
    loss = term(View(readout=lambda rows: Readout(logits[rows])), View(), batch)
    loss.backward()
    assert loss.item() == 0
    assert_close(logits.grad, torch.zeros_like(logits))


def test_a_corpus_batch_with_nothing_hidden_costs_nothing(views):
    batch, student, _ = views
    empty = batch | {"rows": batch["rows"][:0], "labels": batch["labels"][:0]}
    assert bound(HardTargets(1, rows=masked_positions))(student, View(), empty).item() == 0


def regression(hidden: int = 6) -> Spec:
    return Spec(layers=2, hidden=hidden, heads=2, vocabulary=11, labels=("similarity",))


def test_a_regression_is_compared_by_squared_error(task_batch):
    """TinyBERT, check G: students 1, 3, 4.5 against 2, 3, 4, be they gold or the teacher's."""
    batch = task_batch(classes=1, size=3)
    student = View(readout=lambda rows: Readout(torch.tensor([[1.0], [3.0], [4.5]])[rows]))
    teacher = View(readout=lambda rows: Readout(torch.tensor([[2.0], [3.0], [4.0]])[rows]))
    soft = SoftTargets(1, loss=KL, rows=examples)
    soft.bind(regression(), regression())
    batch["labels"] = torch.tensor([9.0, 9.0, 9.0])
    assert soft(student, teacher, batch).item() == pytest.approx(1.25 / 3)
    hard = HardTargets(1, rows=labelled_examples)
    hard.bind(regression(), None)
    batch["labels"] = torch.tensor([2.0, 3.0, 4.0])
    assert hard(student, View(), batch).item() == pytest.approx(1.25 / 3)
    batch["labels"] = torch.tensor([2.0, float("nan"), 4.0])
    assert hard(student, View(), batch).item() == pytest.approx(1.25 / 2)


@pytest.mark.parametrize(
    ("mode", "student", "count"),
    [("shared", 312, 240_384), ("shared", 768, 590_592), ("per_layer", 312, 5 * 240_384), ("paper", 312, 2 * 312 * 768)],
)
def test_a_projection_has_as_many_parameters_as_the_paper_says(mode, student, count):
    projection = Projection(mode)
    shapes = Spec(layers=4, hidden=student, heads=12, vocabulary=11), Spec(layers=12, hidden=768, heads=12, vocabulary=11)
    projection.bind([0], *shapes)
    projection.bind([1, 2, 3, 4], *shapes)
    assert sum(p.numel() for p in projection.parameters()) == count


@pytest.mark.parametrize(("mode", "same"), [("shared", {(0, 1), (1, 2), (0, 2)}), ("per_layer", set()), ("paper", {(1, 2)})])
def test_a_projection_shares_its_linears_as_its_mode_says(mode, same):
    projection = Projection(mode)
    projection.bind([0, 1, 2], STUDENT, TEACHER)
    hidden = torch.randn(5, 4)
    found = {pair for pair in ((0, 1), (1, 2), (0, 2)) if torch.equal(*(projection(layer, hidden) for layer in pair))}
    assert found == same


@pytest.mark.parametrize(
    ("make", "student", "teacher", "words"),
    [
        (lambda: Projection("wide"), None, None, r"projection 'wide' is unknown: choose one of shared, per_layer, paper"),
        (
            COUNT_REAL["soft"],
            Spec(layers=2, hidden=4, heads=2, vocabulary=11, labels=("yes", "no")),
            Spec(layers=2, hidden=4, heads=2, vocabulary=11, labels=("no", "yes")),
            r"labels: the student's are \['yes', 'no'\] and the teacher's \['no', 'yes'\].*fine-tune the teacher",
        ),
        (
            COUNT_REAL["soft"],
            Spec(layers=2, hidden=4, heads=2, vocabulary=11, labels=("yes", "no", "maybe")),
            Spec(layers=2, hidden=4, heads=2, vocabulary=11, labels=("yes", "no")),
            r"labels: .* the same names in the same order",
        ),
        (
            COUNT_REAL["soft"],
            STUDENT,
            Spec(layers=4, hidden=6, heads=2, vocabulary=11, trained_head=False),
            r"soft targets: the teacher was loaded without a trained head.*with a masked-LM head, or set the weight",
        ),
        (
            COUNT_REAL["soft"],
            Spec(layers=2, hidden=4, heads=2, vocabulary=11, labels=("yes", "no"), trained_head=False),
            Spec(layers=2, hidden=4, heads=2, vocabulary=11, labels=("yes", "no"), trained_head=False),
            r"soft targets: .*with a classifier for this task \(stage=teacher\), or set the weight of this term to 0",
        ),
        (
            lambda: HiddenMatch(1, layers="last"),
            STUDENT,
            TEACHER,
            r"hidden states: the student is 4 wide and the teacher 6.*a method with a projection \(tinybert\)",
        ),
        (
            lambda: HiddenMatch(1, layers=[[1, 9]]),
            STUDENT,
            TEACHER,
            r"layer pair \[1,9\]: the student has layers 0\.\.2 and the teacher 0\.\.4",
        ),
        (
            lambda: AttentionMatch(1, layers="uniform", valid_only=True),
            STUDENT,
            Spec(layers=4, hidden=6, heads=3, vocabulary=11),
            r"attention heads: the student has 2 and the teacher 3.*num_attention_heads=3, or the weight of this term to 0",
        ),
        (
            lambda: AttentionMatch(1, layers=[[0, 0]], valid_only=True),
            STUDENT,
            TEACHER,
            r"layer pair \[0,0\]: the student has layers 1\.\.2",
        ),
        (
            lambda: HiddenMatch(1, layers="last", rows=all_positions, projection=Projection("shared")),
            STUDENT,
            STORED,
            r"teacher\.stored=true keeps .* reads padding too\. Set method\.valid_only=true, or leave teacher\.stored=false\.",
        ),
        (
            lambda: AttentionMatch(1, layers="uniform", valid_only=False),
            STUDENT,
            STORED,
            r"reads padding too\. Set method\.valid_only=true, or leave teacher\.stored=false\.",
        ),
        (
            lambda: AttentionTransfer(1, layers="uniform", valid_only=False),
            STUDENT,
            STORED,
            r"reads padding too\. Set method\.valid_only=true, or leave teacher\.stored=false\.",
        ),
    ],
)
def test_an_impossible_pairing_is_refused_in_a_sentence(make, student, teacher, words):
    with pytest.raises(ValueError, match=words):
        make().bind(student, teacher)


@pytest.mark.parametrize("name", COUNT_REAL)
def test_a_term_that_leaves_padding_out_takes_a_stored_teacher(name):
    assert bound(COUNT_REAL[name](), teacher=STORED).needs == bound(COUNT_REAL[name]()).needs


def test_a_term_needs_only_what_it_reads():
    soft, hard = bound(COUNT_REAL["soft"]()), bound(COUNT_REAL["hard"]())
    assert soft.needs == (Needs(logits=True), Needs(logits=True))
    assert hard.needs == (Needs(logits=True), Needs())
    hidden, attention = bound(COUNT_REAL["hidden"]()), bound(COUNT_REAL["attention"]())
    assert hidden.needs == (Needs(hidden=frozenset({0, 1, 2})), Needs(hidden=frozenset({0, 2, 4})))
    assert attention.needs == (Needs(attention=frozenset({1, 2})), Needs(attention=frozenset({2, 4})))


def test_rows_are_selected_from_the_flattened_batch():
    batch = {"input_ids": torch.zeros(2, 3).long(), "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    assert real_positions(batch).tolist() == [0, 1, 3]
    assert all_positions(batch).tolist() == [0, 1, 2, 3, 4, 5]
    assert examples(batch).tolist() == [0, 1]
    assert labelled_examples({"labels": torch.tensor([0, -100, 2])}).tolist() == [0, 2]
    assert labelled_examples({"labels": torch.tensor([0.5, float("nan"), -100.0])}).tolist() == [0, 2]
