"""The command line as a person uses it, on tiny networks and texts: chains, sweeps, resuming, and mistakes."""

import csv
import json
import os
import random
import re
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import torch
from forked import Started
from pyarrow import parquet
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

ROOT = Path(__file__).parent.parent
NUMBER = count()
SMALL = [
    "task=sst2",
    "task.max_length=16",
    "method=tinybert",
    "student.hidden_size=16",
    "student.intermediate_size=32",
    "trainer.accelerator=cpu",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_encoder):
    """A folder with a teacher, a corpus and a task; the words of a class tell it."""
    folder = tmp_path_factory.mktemp("place")
    teacher = make_encoder(positions=128)
    teacher.tokenizer.model_max_length = 128
    teacher.model.save_pretrained(folder / "teacher")
    teacher.tokenizer.save_pretrained(folder / "teacher")
    chance = random.Random(0)
    lines = [" ".join(f"w{chance.randrange(5, 90)}" for _ in range(14)) for _ in range(60)]
    (folder / "corpus.txt").write_text("\n\n".join(lines) + "\n")
    (folder / "SST-2").mkdir()
    for split, size in (("train", 40), ("dev", 20)):
        rows = [f"w{chance.randrange(10, 40) + 40 * (n % 2)} w7 w8\t{n % 2}" for n in range(size)]
        (folder / "SST-2" / f"{split}.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
    return folder


LOW_RESOURCE = [
    "student/vocabulary=words",
    "task=sst2",
    "task.max_length=16",
    "method=bilstm",
    "trainer.accelerator=cpu",
    "student.architecture.hidden_size=8",
]


def typed(place: Path, *overrides: str, small: list[str] = SMALL) -> list[str]:
    """The words of the command line, in which what a test says wins."""
    named = [f"teacher.pretrained={place}/teacher", f"corpus=[{place}/corpus.txt]", f"glue={place}"]
    folders = [f"artifacts={place}/artifacts", f"cache={place}/cache", f"hydra.run.dir={place}/run"]
    sweep = [f"hydra.sweep.dir={place}/sweep"]
    given = [o.split("=")[0] for o in overrides]
    return [*overrides, *(s for s in [*small, *named, *folders, *sweep] if s.split("=")[0] not in given)]


def train(place: Path, *overrides: str, small: list[str] = SMALL) -> Started:
    environment = {"WANDB_MODE": "offline", "WANDB_DIR": str(place)}
    return Started(["train.py", *typed(place, *overrides, small=small)], place / f"log{next(NUMBER)}", environment).wait(300)


def spawn(place: Path, *overrides: str) -> subprocess.Popen:
    """As a shell does it, from the first import on."""
    command = [sys.executable, "train.py", *typed(place, *overrides)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, text=True, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def chain(place):
    """The whole chain with its baseline, run once."""
    return train(place, "stage=task", "baseline=true")


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def artifacts(place: Path) -> dict[str, Path]:
    """By the method's or the stage's name, without what differs from the defaults."""
    return {path.parent.name.split(",")[0]: path.parent for path in (place / "artifacts").rglob("metrics.json")}


def chain_folders(done: Started) -> list[str]:
    """Of the plan."""
    return re.findall(r"^\d+\. .*?: (.*) \(", done.stdout, re.MULTILINE)


def test_one_command_runs_the_whole_chain_and_prints_teacher_student_and_baseline(place, chain):
    assert chain.status == 0, chain.stderr
    for word in ("teacher", "retention", "speed-up"):
        assert word in chain.stdout
    rows = table(artifacts(place)["tinybert"] / "table.csv")
    assert [row["model"].split(",")[0] for row in rows] == ["teacher", "tinybert", "finetune"]


def test_a_run_prints_no_warning(chain):
    assert "warning" not in chain.stderr.lower(), chain.stderr


def test_every_artifact_is_a_folder_that_plain_transformers_loads(place, chain):
    left = artifacts(place)
    assert set(left) == {"teacher", "tinybert-general", "tinybert-intermediate", "tinybert", "finetune-general", "finetune"}
    heads = {"finetune-general": AutoModelForMaskedLM, "tinybert-general": AutoModel, "tinybert-intermediate": AutoModel}
    for name, folder in left.items():
        auto_class = heads.get(name, AutoModelForSequenceClassification)
        model, loaded = auto_class.from_pretrained(folder, output_loading_info=True)
        assert not [key for key in loaded["missing_keys"] if not key.startswith("pooler.")], name
        assert not loaded["unexpected_keys"], name
        assert {"README.md", "run.yaml", "tokenizer.json", "config.json"} <= {path.name for path in folder.iterdir()}
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_the_metrics_name_student_and_teacher_alike(place, chain):
    metrics = json.loads((artifacts(place)["tinybert"] / "metrics.json").read_text())
    assert {"val/student/accuracy", "val/teacher/accuracy", "val/retention", "val/agreement"} <= set(metrics)
    assert metrics["val/retention"] == pytest.approx(metrics["val/student/accuracy"] / metrics["val/teacher/accuracy"])


def test_finished_stages_are_reused_and_no_checkpoint_is_left(place, chain):
    before = {path: path.stat().st_mtime for path in (place / "artifacts").rglob("model.safetensors")}
    again = train(place, "stage=task", "method.prediction=1", "optim.eps=0.000001")
    assert again.status == 0, again.stderr
    assert again.stdout.count("there already") == 4
    assert before == {path: path.stat().st_mtime for path in (place / "artifacts").rglob("model.safetensors")}
    assert not list((place / "artifacts").rglob("*.ckpt"))


def test_a_sweep_trains_what_its_jobs_share_once_and_ends_in_one_summary(place, chain):
    before = set((place / "artifacts").rglob("metrics.json"))
    done = train(place, "-m", "stage=task", "method.prediction=0.5,1.0", "method.temperature=1,1.0")
    assert done.status == 0, done.stderr
    new = set((place / "artifacts").rglob("metrics.json")) - before
    assert [path.parent.name.split(",")[0] for path in new] == ["tinybert"]  # the other weight's is there from the chain
    summary = table(place / "sweep" / "summary.csv")
    assert [(row["method.prediction"], row["method.temperature"]) for row in summary] == [
        ("0.5", "1"),
        ("0.5", "1.0"),
        ("1.0", "1"),
        ("1.0", "1.0"),
    ]
    assert "summary.csv" in done.stdout


def test_two_processes_that_want_the_same_chain_train_it_once(place):
    """Whoever comes second waits and takes what is there."""
    jobs = [spawn(place, "stage=task", "seed=5", f"hydra.run.dir={place}/run{n}") for n in range(2)]
    said = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    left = [path for path in (place / "artifacts").rglob("metrics.json") if ",seed=5" in path.parent.name]
    assert len(left) == 4
    assert not [path for path in (place / "artifacts").rglob("*") if path.suffix == ".lock" or "unfinished" in path.name]
    trained = [re.search(r"^0/\d+ updates", text, re.MULTILINE) is not None for text in said]
    assert any(trained)
    cards = {path.parent.name: json.loads(path.read_text()) for path in left}
    assert len(cards) == 4


def test_a_job_of_a_sweep_that_is_refused_is_listed_and_the_others_go_on(place):
    folder, small = f"hydra.sweep.dir={place}/refused", ["task=sst2", "trainer.accelerator=cpu"]
    done = train(place, "-m", "stage=teacher", "task.max_length=9999,12", folder, small=small)
    assert done.status == 1
    summary = table(place / "refused" / "summary.csv")
    assert [row["value"] == "failed" for row in summary] == [True, False]
    assert "task.max_length=9999" in summary[0]["error"]
    assert "Traceback" not in done.stderr


def test_a_sweep_over_the_weights_of_a_masked_lm_loss_compares_that_of_the_labels(place):
    small = ["task=sst2", "method=distilbert", "trainer.accelerator=cpu"]
    done = train(place, "-m", "stage=general", "method.soft=0,5", f"hydra.sweep.dir={place}/soft", small=small)
    assert done.status == 0, done.stderr
    summary = table(place / "soft" / "summary.csv")
    left = [json.loads(path.read_text()) for path in (place / "artifacts" / "demo").glob("distilbert-general*/metrics.json")]
    assert sorted(row["value"] for row in summary) == sorted(f"{metrics['val/student/mlm_loss']:.4f}" for metrics in left)
    written = table(next((place / "artifacts" / "demo").glob("distilbert-general*/table.csv")))
    assert written[0]["mlm_loss"] == f"{left[0]['val/teacher/mlm_loss']:.4f}"
    assert "retention" not in written[0]


def test_a_teacher_that_the_chain_has_trained_stands_once_in_the_table(place):
    small = ["task=sst2", "method=mobilebert", "method.strategy=none", "trainer.accelerator=cpu"]
    done = train(place, "stage=general", small=small)
    assert done.status == 0, done.stderr
    written = table(next((place / "artifacts" / "demo").glob("mobilebert-general*/table.csv")))
    assert [row["model"].split(",")[0] for row in written] == ["teacher", "mobilebert-general"]


def test_the_kept_predictions_give_the_metrics(place, chain):
    folder = artifacts(place)["tinybert"]
    kept = parquet.read_table(folder / "predictions.parquet").to_pydict()
    gold = [int(line.split("\t")[1]) for line in (place / "SST-2" / "dev.tsv").read_text().splitlines()[1:]]
    assert kept["row"] == list(range(len(gold)))
    assert kept["label"] == gold
    metrics = json.loads((folder / "metrics.json").read_text())
    for who in ("student", "teacher"):
        right = [logits.index(max(logits)) == label for logits, label in zip(kept[who], gold, strict=True)]
        assert metrics[f"val/{who}/accuracy"] == pytest.approx(sum(right) / len(right))


def test_several_seeds_share_the_teacher_and_end_in_mean_deviation_and_median(place, chain):
    before = set((place / "artifacts").rglob("model.safetensors"))
    done = train(place, "stage=task", "baseline=true", "seeds=2")
    assert done.status == 0, done.stderr
    new = {
        path.parent.name.split(",")[0]: path.parent for path in set((place / "artifacts").rglob("model.safetensors")) - before
    }
    assert sorted(new) == ["finetune", "tinybert", "tinybert-intermediate"]
    assert all(",seed=43-" in folder.name for folder in new.values())
    (first,) = (folder for folder in map(Path, chain_folders(chain)) if folder.name.split(",")[0] == "tinybert")
    values = [json.loads((folder / "metrics.json").read_text())["val/student/accuracy"] for folder in (first, new["tinybert"])]
    row = table(first / "table.csv")[1]
    assert row["model"].split(",")[0] == "tinybert"
    mean, _, deviation = row["accuracy"].partition(" ± ")
    assert float(mean) == pytest.approx(sum(values) / 2, abs=1e-4)
    assert float(deviation) == pytest.approx(abs(values[0] - values[1]) / 2**0.5, abs=1e-4)
    assert float(row["median"]) == pytest.approx(sum(values) / 2, abs=1e-4)
    assert "95 % interval" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["stage=general", "corpus=[/nowhere/text.txt]"], "data.source: /nowhere/text.txt cannot be found"),
        (["stage=general", "student.num_hidden_layers=3"], "uniform layer map: 4 teacher layers do not divide over 3"),
        (["stage=general", "student.num_attention_heads=8"], "attention heads: the student has 8 and the teacher 4"),
        (["stage=task", "corpus=[/nowhere/text.txt]"], "data.source: /nowhere/text.txt cannot be found"),
        (["stage=task", "student.num_hidden_layers=3"], "uniform layer map: 4 teacher layers do not divide over 3"),
        (["stage=task", "teacher.stored=true"], "Set method.valid_only=true"),
        (["stage=teacher", "glue=/nowhere"], "train.tsv cannot be found"),
        (["stage=general", "teacher.pretrained=/nowhere/model"], "/nowhere/model: no model is there"),
        (["stage=task", "prerequisites=error", "seed=3"], "earlier stages are missing"),
        (["stage=intermediat"], "stage=intermediat: method=tinybert has none of this name; it has teacher, general"),
        (["method=tinybrt"], "method=tinybrt: there is no such choice. Did you mean tinybert?"),
        (["method.atention=0"], "method.atention: there is no such setting. Did you mean method.attention"),
        (["+method.atention=0"], "method.atention: there is no such setting. Did you mean method.attention"),
        (
            ["stages.genral.optim.lr=1"],
            "there is no such setting. Did you mean stages.general.optim.lr",
        ),
        (["stage=general", "teacher.path=here"], "teacher.path=here: what runs is general, and none of them starts from it"),
        (["compare=[{method: bilstm, stage: task, seed: 1}]"], "an entry names a method and a stage, and overrides"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(place, tmp_path, overrides, sentence):
    """Of a stage at the end of a chain too: those before it have not begun."""
    done = train(place, f"artifacts={tmp_path}/artifacts", *overrides)
    assert done.status != 0
    assert sentence in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "artifacts").exists()


def test_a_bilstm_of_own_words_learns_from_stored_answers_and_few_labels(place):
    """The place has 40 training rows; 10 keep their labels, the teacher answers for all."""
    few = ["task.label_budget=10"]
    for stage in ("task", "baseline"):
        few += [f"stages.{stage}.trainer.max_steps=30", f"stages.{stage}.trainer.val_check_interval=10"]
    done = train(place, "stage=task", "baseline=true", *few, small=LOW_RESOURCE)
    assert done.status == 0, done.stderr
    assert "60 rows (logits)" in done.stdout
    assert "bilstm-baseline" in done.stdout
    (folder,) = (path.parent for path in (place / "artifacts").rglob("bilstm,*/metrics.json"))
    script = (
        "import kd_lightning, sys\n"
        "from transformers import AutoModelForSequenceClassification as M, AutoTokenizer as T\n"
        "tokens = T.from_pretrained(sys.argv[1])(['w10 w7 unheard'], return_tensors='pt')\n"
        "print(type(M.from_pretrained(sys.argv[1])).__name__, tokens['input_ids'].shape)\n"
    )
    fresh = subprocess.run([sys.executable, "-c", script, folder], cwd=ROOT, capture_output=True, text=True, check=True)
    assert fresh.stdout.split(maxsplit=1) == ["BiLSTMForSequenceClassification", "torch.Size([1, 3])\n"]
    predicted = parquet.read_table(folder / "predictions.parquet")
    assert predicted.num_rows == 20
    assert set(predicted.column_names) == {"row", "label", "length", "student", "teacher"}


SEARCHED = [
    "task=sst2",
    "task.max_length=16",
    "method=adabert",
    "student.channels=8",
    "student.cells=2",
    "trainer.accelerator=cpu",
]


def test_adabert_searches_once_and_trains_what_it_found_beside_random_architectures(place):
    """A search of two epochs, then two seeds of its network and of random ones; and one of an architecture by hand."""
    done = train(place, "stage=search", "trainer.max_epochs=2", "artifacts=" + str(place / "searched"), small=SEARCHED)
    assert done.status == 0, done.stderr
    assert "Probes on layer 0" in done.stdout
    assert "cells of" in done.stdout
    (found,) = (path.parent for path in (place / "searched").rglob("architecture.json"))
    assert (found / "architecture.svg").read_text().startswith("<svg")
    log = Path(f"{found}.run", "metrics.csv").read_text()
    assert "search/entropy/edges" in log.splitlines()[0]
    few = [f"student.path={found}", "trainer.max_epochs=2", "artifacts=" + str(place / "searched")]
    for stage in ("task", "random"):
        done = train(place, f"stage={stage}", "seeds=2", *few, small=SEARCHED)
        assert done.status == 0, done.stderr
    shapes = {}
    for path in (place / "searched").rglob("architecture.json"):
        shapes.setdefault(path.parent.name.split(",")[0], []).append(path.read_text())
    assert {name: len(texts) for name, texts in shapes.items()} == {"adabert-search": 1, "adabert": 2, "adabert-random": 2}
    assert set(shapes["adabert"]) == set(shapes["adabert-search"])
    assert len(set(shapes["adabert-random"])) == 2
    hand = place / "cell.json"
    hand.write_text('{"cells": 1, "nodes": {"2": {"0": "conv_3"}}}')
    done = train(place, "stage=task", f"student.path={hand}", "trainer.max_epochs=1", small=SEARCHED)
    assert done.status == 0, done.stderr
    assert "adabert" in done.stdout
