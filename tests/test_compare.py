"""One table of artifacts whose metrics are known, and the figures of the papers."""

import csv
import hashlib
import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from omegaconf import OmegaConf
from pyarrow import parquet

from kd_lightning.compare import PUBLISHED, compare, find, main, markdown

CONF = Path(__file__).parent.parent / "conf"
TASKS = {path.stem: OmegaConf.load(path) for path in (CONF / "task").glob("*.yaml")}
NINE = {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}


@pytest.fixture
def artifact(tmp_path, make_encoder, write_record):
    """Write one: its metrics, and of eight rows of validation data the logits that say these classes."""

    def make(
        method="tinybert", task="sst2", seed=42, classes=None, monitor="accuracy", metrics=None, layers=2, stage="task", **shape
    ):
        name = f"{task}/{method if stage == 'task' else stage}"
        folder = tmp_path / (name if seed == 42 else f"{name}-seed{seed}")
        make_encoder(labels=("no", "yes"), layers=layers, **shape).model.save_pretrained(folder)
        write_record(
            folder,
            name=Path(name).name,
            setting=hashlib.md5(name.encode()).hexdigest()[:16],
            method=method,
            stage=stage,
            seed=seed,
            metric=f"val/student/{monitor}",
            task={"name": task, "monitor": monitor},
            teacher="teacher" if method == "tinybert" else None,
        )
        (folder / "metrics.json").write_text(json.dumps(metrics or {}))
        if classes:
            logits = [[1.0 - said, float(said)] for said in classes]
            rows = pa.table({"row": range(8), "label": [0, 1] * 4, "student": logits})
            parquet.write_table(rows, folder / "predictions.parquet")
        return str(folder)

    return make


def accuracy(student: float, teacher: float | None = None) -> dict[str, float]:
    return {"val/student/accuracy": student} | ({} if teacher is None else {"val/teacher/accuracy": teacher})


def test_seeds_share_a_row_with_their_mean_and_deviation(artifact, tmp_path):
    """0.7 and 0.9: mean 0.8, deviation of a sample 0.2 / √2."""
    artifact(seed=42, metrics=accuracy(0.7, 0.8))
    artifact(seed=43, metrics=accuracy(0.9, 0.8))
    (row,) = compare(find([str(tmp_path)]))
    assert (row["value"], row["seeds"], row["retention"]) == ("0.8000 ± 0.1414", "2", "1.0000")
    assert (row["task"], row["model"], row["scale"]) == ("sst2", "tinybert", "demo")


def test_the_baseline_is_held_against_the_teacher_of_its_task(artifact, tmp_path):
    artifact("finetune", metrics=accuracy(0.6))
    artifact("tinybert", metrics=accuracy(0.72, 0.8))
    artifact("finetune", task="rte", metrics=accuracy(0.5))
    artifact("finetune", stage="teacher", metrics=accuracy(0.79))  # measured in another precision than by the student's run
    rows = {(row["task"], row["model"]): row for row in compare(find([str(tmp_path)]))}
    assert rows["sst2", "tinybert"]["retention"] == "0.9000"
    assert rows["sst2", "finetune"]["retention"] == "0.7500"
    assert rows["rte", "finetune"]["retention"] == rows["sst2", "teacher"]["retention"] == ""


def test_the_test_column_and_macro_f1_stand_beside_the_value(artifact, tmp_path, monkeypatch, capfd):
    """Four rows of each class are even; six and two are not: F1 of 12/13 and 2/3."""
    folder = artifact("tinybert", metrics=accuracy(0.875) | {"test/student/accuracy": 0.6}, classes=[0] * 7 + [1])
    (row,) = [row for row in compare(find([folder])) if row["model"] == "tinybert"]
    assert row["test"] == "0.6000"
    assert "macro F1" not in row
    rows = parquet.read_table(f"{folder}/predictions.parquet").to_pydict() | {"label": [0] * 6 + [1, 1]}
    parquet.write_table(pa.table(rows), f"{folder}/predictions.parquet")
    (row,) = [row for row in compare(find([folder])) if row["model"] == "tinybert"]
    assert row["macro F1"] == f"{(12 / 13 + 2 / 3) / 2:.4f}"
    monkeypatch.setattr(sys, "argv", ["compare", folder])
    main()
    assert "recall by class: yes 0.5000 of 2, no 1.0000 of 6" in capfd.readouterr().out


def test_retention_is_over_the_teachers_own_score_where_it_is_compared(artifact, write_record, tmp_path):
    teacher = artifact("finetune", stage="teacher", metrics=accuracy(0.9))
    student = Path(artifact("tinybert", metrics=accuracy(0.72, 0.8)))
    settings = {"method": "tinybert", "name": "tinybert", "setting": "0" * 16, "teacher": teacher}
    write_record(student, **settings)
    rows = {row["model"]: row for row in compare(find([str(tmp_path)]))}
    assert rows["tinybert"]["retention"] == "0.8000"
    assert rows["teacher"]["retention"] == ""


def test_parameters_are_those_of_each_model(artifact, tmp_path, make_encoder):
    artifact("tinybert", metrics=accuracy(0.7), layers=2, hidden=64)
    artifact("finetune", metrics=accuracy(0.7), layers=4, hidden=128)
    rows = {row["model"]: row for row in compare(find([str(tmp_path)]))}
    for name, layers, hidden in (("tinybert", 2, 64), ("finetune", 4, 128)):
        count = sum(p.numel() for p in make_encoder(labels=("no", "yes"), layers=layers, hidden=hidden).parameters())
        assert rows[name]["parameters"] == f"{count / 1e6:.2f}M"
        assert float(rows[name]["ms"]) > 0


GLUE = {  # task -> metrics and its score, by hand
    "cola": ({"val/student/matthews": 0.1, "val/student/accuracy": 0.9}, 0.1),
    "sst2": (accuracy(0.9), 0.9),
    "mrpc": ({"val/student/f1": 0.8, "val/student/accuracy": 0.6}, 0.7),
    "stsb": ({"val/student/pearson": 0.9, "val/student/spearman": 0.7}, 0.8),
    "qqp": ({"val/student/f1": 0.5, "val/student/accuracy": 0.7}, 0.6),
    "mnli": ({"val/student/accuracy": 0.6, "mismatched/student/accuracy": 0.8}, 0.7),
    "qnli": (accuracy(0.5), 0.5),
    "rte": (accuracy(0.4), 0.4),
    "wnli": (accuracy(0.3), 0.3),
}


@pytest.mark.parametrize(("left_out", "average"), [((), "0.5556"), (("wnli",), "0.5875"), (("cola", "sst2", "mnli"), "0.5500")])
def test_the_average_has_each_tasks_metrics_averaged_first(artifact, tmp_path, left_out, average):
    """The scores add up to 5.0; without WNLI to 4.7; without CoLA, SST-2 and MNLI to 3.3."""
    tasks = [task for task in GLUE if task not in left_out]
    for task in tasks:
        metrics, _ = GLUE[task]
        artifact(task=task, metrics=metrics, monitor=next(iter(metrics)).rpartition("/")[2])
    last = compare(find([str(tmp_path)]))[-1]
    assert (last["metric"], last["value"]) == ("average", average)
    assert last["task"] == (f"mean of {', '.join(sorted(tasks))}" if left_out else "GLUE")


def test_a_model_of_the_papers_shape_stands_beside_the_papers_figure(artifact, tmp_path):
    artifact(metrics=accuracy(0.9), layers=4, hidden=312, heads=12)
    (row,) = compare(find([str(tmp_path)]))
    assert row["paper"] == "92.6 (Jiao et al. 2020, table 1, test)"


def test_a_model_of_another_shape_stands_alone(artifact, tmp_path):
    artifact(metrics=accuracy(0.9))
    assert "paper" not in compare(find([str(tmp_path)]))[0]


def test_the_published_scores_have_the_averages_that_the_papers_print():
    """Of nine columns: in table 1 of TinyBERT one of them is MNLI mismatched, which is given here."""
    tables = [
        ("Sanh et al. 2019, table 1", {"method": "distilbert", "stage": "task"}, 6, None, 77.0),
        ("Sanh et al. 2019, table 1", {"stage": "teacher"}, 12, None, 79.5),
        ("Jiao et al. 2020, table 1", {"stage": "teacher"}, 12, 83.4, 79.5),
        ("Jiao et al. 2020, table 1", {"method": "distilbert", "stage": "task"}, 6, 81.3, 76.8),
        ("Jiao et al. 2020, table 1", {"method": "finetune", "stage": "task"}, 4, 74.9, 70.2),
        ("Jiao et al. 2020, table 1", {"method": "tinybert"}, 4, 81.8, 77.0),
        ("Jiao et al. 2020, table 1", {"method": "tinybert"}, 6, 83.2, 79.4),
    ]
    published = OmegaConf.to_container(OmegaConf.load(PUBLISHED))["models"]
    for source, of, layers, mismatched, average in tables:
        (entry,) = (e for e in published if (e["source"], e["of"], e["layers"]) == (source, of, layers))
        figures = [next(iter(metrics.values())) for metrics in entry["scores"].values()]
        figures += [] if mismatched is None else [mismatched]
        assert len(figures) == 9
        assert sum(figures) / 9 == pytest.approx(average, abs=0.06), (source, of)


def test_the_published_metrics_are_those_of_the_tasks():
    published = OmegaConf.to_container(OmegaConf.load(PUBLISHED))
    assert published["glue"].keys() == NINE
    assert TASKS.keys() >= NINE
    for task in NINE:
        wanted = {key.rpartition("/")[2] for key in published["glue"][task]}
        named = {name for entry in published["models"] for name in entry["scores"].get(task, ())}
        assert wanted | named <= TASKS[task].metrics.keys(), task


def test_the_command_prints_writes_and_compares(artifact, tmp_path, monkeypatch, capfd):
    folders = [
        artifact("tinybert", metrics=accuracy(1.0, 0.9), classes=[0, 1] * 4),
        artifact("finetune", metrics=accuracy(0.0), classes=[1, 0] * 4),
    ]
    files = tmp_path / "table.md", tmp_path / "table.csv"
    monkeypatch.setattr(sys, "argv", ["compare", *folders, "--markdown", str(files[0]), "--csv", str(files[1])])
    main()
    assert "tinybert less finetune, accuracy on sst2: +1.0000 (95 % interval +1.0000 to +1.0000" in capfd.readouterr().out
    rows = list(csv.DictReader(files[1].read_text().splitlines()))
    values = [("majority class", "0.5000"), ("tinybert", "1.0000"), ("finetune", "0.0000")]
    assert [(row["model"], row["value"]) for row in rows] == values
    table, differing = files[0].read_text().split("\n\n")
    assert table + "\n" == markdown(rows)
    assert table.splitlines()[1] == "| --- " * len(rows[0]) + "|"
    assert differing.splitlines()[2].startswith("| sst2 | accuracy | tinybert | finetune | +1.0000 | +1.0000 to +1.0000 | 0.")


def test_models_of_other_rows_are_not_compared(artifact, monkeypatch, capfd):
    folders = [artifact(method, metrics=accuracy(1.0), classes=[0, 1] * 4) for method in ("tinybert", "finetune")]
    rows = parquet.read_table(f"{folders[1]}/predictions.parquet")
    parquet.write_table(rows.slice(1), f"{folders[1]}/predictions.parquet")
    monkeypatch.setattr(sys, "argv", ["compare", *folders])
    main()
    assert "interval" not in capfd.readouterr().out


@pytest.mark.parametrize(("made", "sentence"), [(False, "no artifact is there"), (True, "no stage there measures a task")])
def test_a_mistake_is_one_sentence(made, sentence, artifact, write_record, tmp_path, monkeypatch):
    if made:
        write_record(Path(artifact()), metric="val/loss")
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path)])
    with pytest.raises(SystemExit, match=sentence):
        main()
