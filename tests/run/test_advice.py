"""What is said of results whose files are written here by hand."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from kd_lightning.run.advice import advice, recalls
from kd_lightning.run.results import collect, teacher_scores

GOLD = [0] * 6 + [1] * 2
RIGHT, MOSTLY = [0] * 6 + [1, 1], [0] * 6 + [1, 0]


@pytest.fixture
def artifact(tmp_path, write_record):
    def make(name, said=RIGHT, curve=(), budget=None, labels=("no", "yes"), gold=GOLD, metrics=None, config=None, **record):
        folder = tmp_path / name
        setting = hashlib.md5(name.partition("-")[0].encode()).hexdigest()[:16]
        settings = {"data": {"label_budget": budget}}
        record = {"teacher": None, "setting": setting} | record
        write_record(folder, name=name, settings=settings, task={"labels": list(labels)}, **record)
        score = float(np.mean(np.array(said) == np.array(gold)))
        (folder / "metrics.json").write_text(json.dumps({"val/student/accuracy": score} | (metrics or {})))
        (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8} | (config or {})))
        logits = [[float(c == one) for c in range(len(labels))] for one in said]
        rows = pa.table({"row": range(len(gold)), "label": gold, "student": logits})
        parquet.write_table(rows, folder / "predictions.parquet")
        if curve:
            run = tmp_path / f"{name}.run"
            run.mkdir()
            lines = [f"{n},{10 * n + 9},{value}" for n, value in enumerate(curve)] + [f"9,{10 * len(curve)},{max(curve)}"]
            (run / "metrics.csv").write_text("\n".join(["epoch,step,val/student/accuracy", "0,4,", *lines]) + "\n")
        return folder

    return make


def said(*folders) -> list[str]:
    return advice(collect(folders))


def test_a_good_student_beside_a_good_teacher_is_left_alone(artifact):
    teacher = artifact("teacher", stage="teacher", curve=[0.8, 1.0, 1.0])
    assert said(teacher, artifact("student", teacher=str(teacher), curve=[0.8, 1.0, 1.0])) == []


def test_one_answer_for_all_is_no_better_than_the_majority_and_never_predicts_the_other(artifact):
    """Six of eight rows are "no": 0.75. Thirty updates were made, so sixty are twice as many."""
    majority, never = said(artifact("student", said=[0] * 8, curve=[0.75, 0.75, 0.75]))
    again = "run its command again with stages.task.trainer.max_epochs=-1 stages.task.trainer.max_steps=60."
    assert majority.startswith("student on sst2 (accuracy) is at 0.7500, no better than the most frequent class (0.7500): ")
    assert majority.endswith(again)
    assert "never predicts yes (2 rows): add training rows" in never
    assert never.endswith(again)


@pytest.mark.parametrize(("theirs", "expected"), [(RIGHT, True), (MOSTLY, True), ([0] * 5 + [1, 1, 1], True), ([1] * 8, False)])
def test_a_student_is_held_against_the_same_network_without_a_teacher(artifact, theirs, expected):
    student = artifact("student", said=MOSTLY, teacher="gone")
    found = said(student, artifact("baseline", said=theirs, stage="baseline"))
    assert any("no better than baseline, the same network without a teacher" in line for line in found) == expected
    other = said(student, artifact("wider", said=theirs, stage="baseline", config={"hidden_size": 16}))
    assert not any("without a teacher" in line for line in other)


@pytest.mark.parametrize(
    ("curve", "rises"), [([0.5, 0.6, 0.7], True), ([0.5, 0.7, 0.7], False), ([0.7, 0.6, 0.5], False), ([0.5, 0.9], False)]
)
def test_a_curve_that_ends_with_its_best_value_still_rises(artifact, curve, rises):
    found = [line for line in said(artifact("student", curve=curve)) if "still rises" in line]
    assert [line.partition("(from ")[2].partition(" in")[0] for line in found] == (["0.6000 to 0.7000"] if rises else [])


def test_a_teacher_that_is_a_coin_is_named_once_for_its_student(artifact):
    teacher = artifact("teacher", stage="teacher", said=[0] * 8)
    found = said(teacher, artifact("student", teacher=str(teacher)))
    assert sum("The teacher of student on sst2 (accuracy) is at 0.7500" in line for line in found) == 1


def test_a_teacher_that_a_student_without_one_beats_is_said_to_have_little_to_teach(artifact):
    """Of 80 rows the teacher knows 48, the student alone all: no draw of rows turns that round. One row more is chance."""
    gold = [0, 1] * 40
    teacher = artifact("teacher", said=[0, 1] * 8 + [0, 0] * 32, gold=gold, stage="teacher", curve=[0.5, 0.6, 0.6])
    taught = artifact("student", said=[0, 1] * 8 + [0, 0] * 32, gold=gold, teacher=str(teacher))
    alone = artifact("alone", said=gold, gold=gold, stage="baseline", teacher=str(teacher), config={"hidden_size": 4})
    (found,) = [line for line in said(teacher, taught, alone) if "has little to teach" in line]
    assert found.startswith(
        "teacher on sst2 (accuracy) is at 0.6000, below alone, which learned without a teacher (1.0000), so"
    )
    assert found.endswith("stages.teacher.trainer.max_epochs=-1 stages.teacher.trainer.max_steps=60.")
    near = artifact("near", said=[0, 1] * 9 + [0, 0] * 31, gold=gold, config={"hidden_size": 4})
    assert not [line for line in said(teacher, taught, near) if "has little to teach" in line]
    assert not [line for line in said(teacher, taught) if "has little to teach" in line]


def test_two_candidates_that_differ_in_one_row_of_eight_cannot_be_told_apart(artifact):
    found = said(artifact("a", teacher="gone"), artifact("b", said=MOSTLY, teacher="gone", config={"hidden_size": 9}))
    (line,) = (line for line in found if "told apart" in line)
    assert line.startswith("a and b cannot be told apart on the 8 validation rows of sst2 (95 % interval +0.0000 to +0.")
    far = said(artifact("c", teacher="gone"), artifact("d", said=[1 - c for c in GOLD], teacher="gone"))
    assert not any("told apart" in line for line in far)


@pytest.mark.parametrize(("theirs", "words"), [(None, "all labels"), (500, "500 labels"), (100, None)])
def test_few_labels_beside_a_teacher_that_saw_more_are_said(artifact, theirs, words):
    teacher = artifact("teacher", stage="teacher", budget=theirs)
    found = [line for line in said(teacher, artifact("student", teacher=str(teacher), budget=100)) if "labels" in line]
    assert len(found) == (words is not None)
    assert all(f"knows 100 labels, and its teacher has seen {words}" in line for line in found)


def test_recall_and_macro_f1_of_uneven_classes_are_those_of_numpy(artifact):
    """Of three classes of 5, 2 and 1 rows; the last is never found."""
    gold, answers = np.array([0, 0, 0, 0, 0, 1, 1, 2]), np.array([0, 0, 0, 0, 1, 1, 0, 0])
    folder = artifact("student", said=answers.tolist(), gold=gold.tolist(), labels=("a", "b", "c"))
    (result,) = collect([folder])
    f1 = []
    for c in range(3):
        hit = ((gold == c) & (answers == c)).sum()
        f1.append(2 * hit / ((gold == c).sum() + (answers == c).sum()))
    assert result.uneven
    assert result.macro_f1 == [pytest.approx(np.mean(f1), abs=1e-6)]
    assert recalls([result]) == ["student on sst2 (accuracy), recall by class: c 0.0000 of 1, b 0.5000 of 2, a 0.8000 of 5"]
    assert recalls(collect([artifact("even", said=[0, 1] * 4, gold=[0, 1] * 4)])) == []


def test_a_teacher_has_the_score_of_its_own_artifact_where_that_is_known(artifact):
    """The student's run measured it in another precision."""
    teacher = artifact("teacher", stage="teacher", metrics={"val/student/accuracy": 0.93})
    student = artifact("student", teacher=str(teacher), metrics={"val/teacher/accuracy": 0.92})
    own, alone = collect([teacher, student]), collect([student])
    assert teacher_scores(own[1], own, "val/student/accuracy") == [0.93]
    assert teacher_scores(alone[0], alone, "val/student/accuracy") == [0.92]


def test_a_stage_that_a_stranger_named_does_nothing_in_a_shell(artifact):
    lines = said(artifact("student", said=[0] * 8, stage="$(touch x)"))
    assert len(lines) == 2
    assert all("'stages.$(touch x).trainer.max_epochs=20'" in line for line in lines)


def test_a_damaged_curve_is_one_sentence(artifact):
    folder = artifact("student", curve=[0.5])
    (folder.with_name("student.run") / "metrics.csv").write_text("step,val/student/accuracy\nx,0.5\n")
    with pytest.raises(ValueError, match=r"metrics.csv cannot be read as rows with a step"):
        said(folder)


def test_a_stage_that_measures_no_task_gets_no_advice(artifact):
    assert said(artifact("general", said=[0] * 8, metric="val/loss")) == []
