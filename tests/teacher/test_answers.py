"""Answers as a teacher, against NumPy and numbers worked out by hand."""

import numpy as np
import pandas
import pytest
import torch

from kd_lightning.method.low_resource import LogitDistillation
from kd_lightning.method.tinybert import TransformerDistillation
from kd_lightning.student.vocabulary import pieces
from kd_lightning.teacher.answers import Answers
from kd_lightning.views import Needs

LABELS = ["no", "yes"]
SPLITS = {"train": np.arange(3), "validation": np.arange(3, 5)}
TEXTS = {"train": [("Good, he said.",), ("12",), ("two\nlines",)], "validation": [("",), ("NA",)]}
SPLIT, ROW = ["train", "validation", "train", "train", "validation"], [2, 1, 0, 1, 0]
YES = [0.2, 0.4, 0.0, 0.9, 0.5]
ORDER = [2, 3, 0, 4, 1]  # of the lines above, by number


def table(yes=YES) -> pandas.DataFrame:
    return pandas.DataFrame({"split": SPLIT, "row": ROW, "yes": yes, "no": [1 - share for share in yes]})


@pytest.fixture
def written(tmp_path):
    def make(name: str, rows: pandas.DataFrame) -> str:
        file = tmp_path / name
        writers = {".csv": rows.to_csv, ".jsonl": rows.to_json, ".parquet": rows.to_parquet}
        more = {"orient": "records", "lines": True} if file.suffix == ".jsonl" else {"index": False}
        writers[file.suffix](file, **more)
        return str(file)

    return make


def made(*files: str, weights=None, kind=None, labels=LABELS, text=("review",), texts=TEXTS) -> Answers:
    answers = Answers(files=files, weights=weights, kind=kind, labels=labels, text=text)
    answers.number(SPLITS, texts)
    return answers


def shown(answers: Answers, index: list[int]) -> torch.Tensor:
    batch = {"index": torch.tensor(index), "input_ids": torch.ones(len(index), 2, dtype=torch.long)}
    return answers(batch, Needs(logits=True)).logits(torch.arange(len(index)))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_each_row_has_its_answer_whatever_the_order_of_the_file(name, written):
    logits = shown(made(written(name, table())), [4, 0, 1, 2, 3])
    expected = np.array(YES)[ORDER][[4, 0, 1, 2, 3]]
    np.testing.assert_allclose(logits.softmax(-1)[:, 1].numpy(), expected, atol=2e-6)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_each_row_has_the_answer_to_its_text(name, written):
    """Whatever the order, with texts of other splits and a text twice; a text may look like a number or like nothing."""
    texts = [text for (text,) in [*TEXTS["validation"], *TEXTS["train"]]]
    rows = pandas.DataFrame({"review": [*texts, "other", "12"], "yes": [0.5, 0.4, 0.0, 0.9, 0.2, 0.7, 0.9]})
    logits = shown(made(written(name, rows.assign(no=1 - rows["yes"]))), [0, 1, 2, 3, 4])
    np.testing.assert_allclose(logits.softmax(-1)[:, 1].numpy(), [0.0, 0.9, 0.2, 0.5, 0.4], atol=2e-6)


def test_a_pair_has_the_answer_to_both_texts(written):
    pairs = {"train": [("a", "b"), ("b", "a"), ("a", "a")], "validation": [("b", "b"), ("c", "a")]}
    rows = pandas.DataFrame({"one": list("cbaab"), "two": list("aabab"), "yes": [0.1, 0.2, 0.3, 0.4, 0.5]})
    answers = made(written("a.csv", rows.assign(no=1 - rows["yes"])), text=("one", "two"), texts=pairs)
    found = shown(answers, [0, 1, 2, 3, 4]).softmax(-1)[:, 1]
    np.testing.assert_allclose(found.numpy(), [0.3, 0.2, 0.4, 0.5, 0.1], atol=1e-6)


def test_splits_that_are_not_read_need_no_place(written):
    more = pandas.DataFrame({"split": ["unlabelled"], "row": [70], "yes": [0.5], "no": [0.5]})
    rows = pandas.concat([more, table()])
    np.testing.assert_allclose(shown(made(written("a.csv", rows)), [1]).softmax(-1)[0, 1].item(), 0.9, atol=1e-6)


def test_the_logits_of_one_file_are_the_teachers_own(written):
    rows = pandas.DataFrame({"split": SPLIT, "row": ROW, "no": [0.0, 1.0, 2.0, 3.0, 4.0], "yes": [2.0, 1.0, 0.0, -1.0, 1.0]})
    logits = shown(made(written("a.csv", rows)), [0, 1, 2, 3, 4])  # the numbers tell that these are logits
    np.testing.assert_array_equal(logits.numpy(), rows[LABELS].to_numpy()[ORDER])


def test_logits_give_their_softmax_and_no_more(written):
    rows = pandas.DataFrame({"split": SPLIT, "row": ROW, "no": [0.0, 1.0, 2.0, 3.0, 4.0], "yes": [2.0, 1.0, 0.0, -1.0, 1.0]})
    logits = shown(made(*2 * [written("a.csv", rows)], kind="logits"), [0, 1, 2, 3, 4])
    difference = (rows["yes"] - rows["no"]).to_numpy()[ORDER]
    np.testing.assert_allclose((logits[:, 1] - logits[:, 0]).numpy(), difference, rtol=1e-5, atol=1e-5)


def test_several_are_averaged_as_probabilities_with_their_weights(written):
    files = written("a.csv", table()), written("b.jsonl", table([1.0, 0.4, 0.4, 0.1, 0.7]))
    found = shown(made(*files, weights=[3, 1]), [0, 1, 2, 3, 4]).softmax(-1)[:, 1]
    by_hand = [0.1, 0.7, 0.4, 0.55, 0.4]  # (3 * 0.0 + 0.4) / 4, (3 * 0.9 + 0.1) / 4, (3 * 0.2 + 1) / 4, ...
    np.testing.assert_allclose(found.numpy(), by_hand, atol=1e-6)


def test_a_regression_has_scores(written):
    rows = [pandas.DataFrame({"split": SPLIT, "row": ROW, "score": [s + more for s in YES]}) for more in (0.0, 2.0)]
    files = [written(f"{n}.csv", frame) for n, frame in enumerate(rows)]
    found = shown(made(*files, labels=["score"]), [0, 1, 2, 3, 4])
    np.testing.assert_allclose(found[:, 0].numpy(), np.array(YES)[ORDER] + 1, rtol=1e-6)


def test_it_teaches_an_objective_on_logits_and_leaves_no_trace(written, make_encoder, engine, task_batch):
    student, teacher = make_encoder(labels=LABELS, layers=1), made(written("a.csv", table()))
    distiller = LogitDistillation(gold=0.0, temperature=1.0, soft=1.0, mse=0.0, kl=0.0, **engine(student, teacher))
    batch = task_batch(classes=2, size=3) | {"index": torch.tensor([0, 1, 2])}
    loss, _ = distiller.objective(*distiller.views(batch), batch)
    loss.backward()
    ours = student(batch, Needs(logits=True)).logits(torch.arange(3)).detach().log_softmax(-1).numpy()
    yes = np.array([0.0, 0.9, 0.2])
    assert loss.item() == pytest.approx(-(ours[:, 1] * yes + ours[:, 0] * (1 - yes)).mean(), abs=1e-4)
    assert not [name for name in distiller.state_dict() if name.startswith("teacher")]


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        (lambda t: t.drop(columns="no"), {}, r"a\.csv has no column no; it has split, row, yes. Rows are named by review, or"),
        (lambda t: t.assign(row=[2, 1, 0, 1, 9]), {}, "answer 5, is to row 9 of validation, and the task has no such row"),
        (lambda t: t.assign(row=[2, 1, 0, 0, 0]), {}, "answer 4, is a second one to row 0 of train"),
        (lambda t: t[:4], {}, "no answer to 1 of 2 rows of validation, row 0 for one"),
        (lambda t: t.assign(yes=2.0), {"kind": "probabilities"}, r"answer 1, holds \[0.8, 2.0\], which are no probabilities."),
        (lambda t: t.assign(yes=2.0), {}, r"answer 1, holds \[0.8, 2.0\], which may be logits .* Write teacher\.kind=logits"),
        (lambda t: t.assign(yes=[-1.0, *t["yes"][1:]]), {}, r"answer 1, holds \[0.8, -1.0\], which may be logits or damaged"),
        (lambda t: t.assign(yes=["x"] * 5), {}, "has answers that are no numbers"),
        (lambda t: t.assign(row=["x"] * 5), {}, "answer 1, is to row x of train, and the task has no such row"),
        (lambda t: t.assign(yes=np.inf), {}, "answer 1, has not a finite number for each class"),
        (lambda t: t, {"weights": [1, 2]}, "give a number above 0 for each of 1 files"),
        (lambda t: t, {"weights": [-1]}, "give a number above 0 for each of 1 files"),
        (lambda t: t, {"kind": "words"}, "kind=words: choose probabilities or logits"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(change, more, said, written):
    with pytest.raises(ValueError, match=said):
        made(written("a.csv", change(table())), **more)


def test_layers_are_refused_and_so_are_the_tokens_of_such_a_teacher(written, make_encoder, engine):
    teacher = made(written("a.csv", table()))
    numbers = {"hidden": 0.5, "embedding": 0.0, "attention": 1.0, "layers": "uniform", "projection": "shared"}
    with pytest.raises(ValueError, match="hidden, attention: these terms compare layers, and of this teacher only answers"):
        TransformerDistillation(**numbers, valid_only=True, **engine(make_encoder(labels=LABELS), teacher))
    with pytest.raises(ValueError, match="only answers are known, and the student would begin with its tokens or layers"):
        pieces(teacher)


def test_a_file_that_is_not_there_or_of_another_kind_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.csv cannot be found"):
        made(str(tmp_path / "nowhere.csv"))
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"a\.txt ends in none of \.csv, \.jsonl"):
        made(str(tmp_path / "a.txt"))


def test_of_probabilities_and_of_an_average_the_logits_of_a_row_add_up_to_zero(written):
    """For a loss on the logits themselves, which sees an offset that probabilities do not have."""
    files = [written("a.csv", table()), written("b.csv", table([0.3, 0.3, 0.6, 0.5, 0.1]))]
    for answers in (made(files[0]), made(*files)):
        np.testing.assert_allclose(shown(answers, [0, 1, 2, 3, 4]).sum(-1).numpy(), 0, atol=1e-5)
