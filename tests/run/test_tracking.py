"""The loggers of a stage; W&B's files read back by its own messages. Nothing is sent."""

import csv
import json
import os
import re
import signal
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import wandb
import yaml
from hydra import compose, initialize_config_dir
from oracles import wandb_file
from pyarrow import parquet
from wandb.sdk.launch.sweeps import utils as sweeps

from kd_lightning.run.chain import plan
from kd_lightning.run.dashboard import lineage
from kd_lightning.run.mistake import sentence
from kd_lightning.run.tracking import tracked

ROOT = Path(__file__).parents[2]
COMMAND = "python train.py method=tinybert"


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    """No account, whoever runs the tests."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_API_KEY", "WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    wandb.teardown()
    yield
    wandb.teardown()


def written(folder):
    """The runs in the files below, which are whole when W&B has ended."""
    wandb.teardown()
    return wandb_file.runs(folder)


@pytest.fixture
def chain(tmp_path):
    """The plan of this command line."""

    def make(*words):
        given = [*words, f"artifacts={tmp_path}/a"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return plan(compose("train", given), given)

    return make


def track(cfg, chain=None, command=COMMAND, fails=False):
    """As a stage does it."""
    work = Path(f"{cfg.artifact}.run")
    work.mkdir(parents=True, exist_ok=True)
    with tracked(cfg, command, chain, work) as loggers:
        for logger in loggers:
            logger.log_metrics({"x": 1.0}, step=0)
        if fails:
            raise ValueError("it fails")


def test_a_run_for_each_stage_and_seed_in_one_group_and_what_fails_says_so(chain, tmp_path):
    found = chain("method=bilstm", "logger=wandb", "seeds=2", "logger.wandb.tags=[mine]")
    for number, run in enumerate(found.runs):
        fails = number == 1
        with pytest.raises(ValueError, match="it fails") if fails else nullcontext():
            track(run, found, fails=fails)
    runs = written(tmp_path)
    assert [run["job_type"] for run in runs] == ["teacher", "task", "task"]
    assert [run["name"] for run in runs] == [Path(run.artifact).name for run in found.runs]
    assert runs[0]["name"] == "teacher"
    assert "seed=43" in runs[2]["name"]
    assert {run["group"] for run in runs} == {f"bilstm-{found.setting[:6]}"}
    assert [run["tags"] for run in runs] == [[m, "docs_topic", "demo", "mine"] for m in ("finetune", "bilstm", "bilstm")]
    assert {(run["notes"], run["project"]) for run in runs} == {(COMMAND, "kd-lightning")}
    assert [run["exit"] for run in runs] == [0, 1, 0]
    assert len({run["id"] for run in runs}) == 3
    for run, cfg in zip(runs, found.runs, strict=True):
        assert (run["config"]["stage"], run["config"]["seed"]) == (cfg.stage, cfg.seed)
        assert run["config"]["optim"]["lr"] == cfg.optim.lr
        assert [row["x"] for row in run["history"]] == [1.0]


def test_a_group_of_ones_own_is_taken(chain, tmp_path):
    found = chain("method=bilstm", "stage=teacher", "logger=wandb", "logger.wandb.group=mine")
    track(found.runs[0], found)
    assert [run["group"] for run in written(tmp_path)] == ["mine"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # W&B leaves the agent's file open
def test_under_an_agent_the_deciding_stage_alone_is_the_agents_run(chain, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    monkeypatch.setenv("WANDB_RUN_ID", "agentrun")
    config = tmp_path / "config.yaml"
    config.write_text("wandb_version: 1\nmethod.prediction: {value: 0.5}\n")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(config))
    found = chain("method=bilstm", "logger=wandb", "seeds=2")
    for run in found.runs:
        track(run, found)
    runs = written(tmp_path)
    assert [run["job_type"] for run in runs] == ["teacher", "task", "task"]
    assert [run["id"] == "agentrun" for run in runs] == [False, True, False]
    assert [run["sweep"] for run in runs] == ["", "sweep123", ""]
    assert [run["config"].get("method.prediction") for run in runs] == [None, 0.5, None]
    assert os.environ["WANDB_RUN_ID"] == "agentrun"


def test_what_the_agent_would_type_for_the_sweep_file_is_a_command_of_ours(chain, monkeypatch):
    sweep = yaml.safe_load((ROOT / "sweep.yaml").read_text())
    chosen = {
        name: {"value": about.get("min", (about.get("values") or [None])[0])} for name, about in sweep["parameters"].items()
    }
    assert len(chosen) > 1
    args = sweeps.create_sweep_command_args({"args": chosen})
    words = [w for part in sweep["command"] for w in (args.get(part[2:-1], []) if part.startswith("${") else [part])]
    assert words[0] == "python"
    assert (ROOT / sweep["program"]).is_file()
    found = chain(*words[1:])
    last = found.runs[-1]
    assert last.distiller.prediction == 0.1
    assert list(last.logger) == ["wandb"]
    assert sweep["metric"] == {"name": last.metric, "goal": "maximize"}
    plain = chain(*words[1:4])
    assert [a.identity == b.identity for a, b in zip(found.runs, plain.runs, strict=True)] == [True, True, True, False]


def test_a_stage_that_is_stopped_goes_on_in_the_same_run_and_the_csv_keeps_its_rows(start, material, tmp_path):
    words = [f"{who}.path={material}/teacher" for who in ("teacher", "stages.intermediate")]
    words += ["stage=task", "method.prediction=0", "method.gold=1", "trainer.max_epochs=6", "trainer.log_every_n_steps=1"]
    words += ["logger=many"]
    offline = {"WANDB_MODE": "offline", "HOME": str(tmp_path / "home")}
    last = "a/demo/sst2/tinybert,*.run/checkpoints/last.ckpt"
    stopped = start(*words, environment=offline).until(last).send(signal.SIGTERM).wait()
    assert stopped.status == 143, stopped
    (before,) = tmp_path.glob("a/demo/sst2/tinybert,*.run/metrics.csv")
    kept = list(csv.DictReader(before.read_text().splitlines()))
    done = start(*words, "ckpt_path=last", environment=offline).wait()
    assert done.status == 0, done
    rows = list(csv.DictReader(before.read_text().splitlines()))
    assert len(rows) > len(kept) > 2
    assert [{k: v for k, v in row.items() if v} for row in rows[: len(kept)]] == [
        {k: v for k, v in row.items() if v} for row in kept
    ]
    runs = written(tmp_path)
    assert [run["job_type"] for run in runs] == ["prediction", "prediction"]
    first, second = runs
    assert (first["id"], first["group"], first["name"]) == (second["id"], second["group"], second["name"])
    assert [run["exit"] for run in runs] == [1, 0]

    start_row = first["history"][0]
    assert start_row["trainer/global_step"] == 0
    assert {"val/student/accuracy", "val/teacher/accuracy", "val/agreement"} <= set(start_row)
    assert all("val/teacher/accuracy" in row for row in second["history"] if "val/student/accuracy" in row)
    steps = [row["trainer/global_step"] for run in (first, second) for row in run["history"] if "train/loss" in row]
    assert steps == sorted(set(steps))
    assert len(set(range(60)) - set(steps)) <= 1  # the batch at which it stops is not taken down
    seen = {name.split(".")[0] for row in second["history"] for name in row}
    assert {"train/lr", "train/gradient_norm", "train/tokens_per_second", "train/share/gold"} <= seen
    assert {"end/parameters", "end/megabytes", "end/milliseconds", "end/table", "val/rows"} <= seen
    assert {f"val/{who}/{what}" for who in ("student", "teacher") for what in ("ece", "reliability", "confusion_table")} <= seen
    metrics = json.loads(next(tmp_path.glob("a/demo/sst2/tinybert,*/metrics.json")).read_text())
    scores = [row["val/student/accuracy"] for row in second["history"] if "val/student/accuracy" in row]
    assert scores[-1] == pytest.approx(metrics["val/student/accuracy"])
    folder = next(tmp_path.glob("a/demo/sst2/tinybert,*/metrics.json")).parent
    answers = parquet.read_table(folder / "predictions.parquet").to_pydict()
    p, q = (np.exp(answers[who]) / np.exp(answers[who]).sum(1, keepdims=True) for who in ("student", "teacher"))
    apart = np.abs(p - q).sum(1) / 2
    (file,) = tmp_path.glob("a/demo/sst2/tinybert,*.run/wandb/offline-*/files/media/table/val/rows_*.table.json")
    board = json.loads(file.read_text())
    texts = [line.split("\t")[0] for line in (material / "SST-2" / "dev.tsv").read_text().splitlines()[1:]]
    shown = [dict(zip(board["columns"], line, strict=True)) for line in board["data"]]
    assert [line["text"] for line in shown] == [texts[line["row"]] for line in shown]
    assert [line["disagreement"] for line in shown] == pytest.approx(sorted(apart, reverse=True), abs=1e-6)
    assert len(shown) == 20


@pytest.mark.parametrize("upload", [False, True])
def test_artifacts_are_named_by_where_they_are_and_uploaded_when_asked(upload, chain, tmp_path):
    found = chain("method=bilstm", "logger=wandb", f"logger.wandb.log_model={upload}")
    for run in found.runs:
        Path(run.artifact).mkdir(parents=True)
        for name in ("model.safetensors", "README.md", "table.csv"):
            Path(run.artifact, name).write_text(name)
    cfg = found.runs[-1]
    with wandb.init(project="p", dir=str(tmp_path)) as run:
        lineage(run, cfg)
    (seen,) = written(tmp_path)
    assert (seen["used"], seen["made"]) == (["docs_topic-teacher"], ["docs_topic-bilstm"])
    for name, folder in zip(seen["used"] + seen["made"], (found.runs[0].artifact, cfg.artifact), strict=True):
        reference = "" if upload else Path(folder, "model.safetensors").as_uri()
        assert seen["files"][name] == {"model.safetensors": reference}


def test_a_missing_key_is_a_sentence_before_anything_trains(start, tmp_path):
    """No terminal, and a home without an account."""
    done = start("logger=wandb", environment={"WANDB_MODE": "online", "HOME": str(tmp_path), "WANDB_API_KEY": ""}).wait()
    assert done.status == 1
    assert "No API key configured" in done.sentence
    assert "Set WANDB_API_KEY to your key, or WANDB_MODE=offline" in done.sentence
    assert not re.search(r"\d/\d+ updates", done.said)


def test_a_server_that_does_not_answer_is_a_sentence(chain, monkeypatch):
    def init(**_):
        raise wandb.errors.CommError("Run initialization has timed out after 30 sec.\nmore of it")

    monkeypatch.setattr(wandb, "init", init)
    (run,) = chain("method=bilstm", "stage=teacher", "logger=wandb").runs
    with pytest.raises(ValueError, match=r"knows \(Run initialization .* 30 sec\)\. Set WANDB_API_KEY .* WANDB_MODE="):
        track(run)


@pytest.mark.parametrize("content", ["", "[]", '{"id": "a"}', '{"id": "../x", "group": "g"}', '{"id": 3.5, "group": "g"}'])
def test_a_damaged_note_of_the_run_is_told(content, chain, tmp_path):
    (run,) = chain("method=bilstm", "stage=teacher", "logger=wandb").runs
    work = Path(f"{run.artifact}.run")
    work.mkdir(parents=True)
    (work / "wandb.json").write_text(content)
    with pytest.raises(ValueError, match=r"wandb.json .* Delete it to go on in a new"):
        track(run)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["csv"]),
        (["logger=wandb"], ["wandb"]),
        (["logger=[wandb,csv]"], ["wandb", "csv"]),
        (["logger=many"], ["csv", "wandb"]),
        (["logger=none"], []),
        (["logger=[]"], []),
    ],
)
def test_there_may_be_no_logger_one_or_several(words, names, chain):
    (run,) = chain("method=bilstm", "stage=teacher", *words).runs
    assert list(run.logger) == names


def test_a_logger_of_null_is_told_what_to_write(chain, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "logger=null"])
    with pytest.raises(ValueError, match="Config group override") as refused:
        chain("logger=null")
    assert sentence(refused.value) == "logger=null: a choice is never null. Write none where it has one (logger=none)."


def test_a_logger_that_is_not_installed_is_named_with_its_extra(chain, monkeypatch):
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr("lightning.fabric.loggers.tensorboard._TENSORBOARDX_AVAILABLE", False)
    (run,) = chain("method=bilstm", "stage=teacher", "logger=tensorboard").runs
    with pytest.raises(ValueError, match=r"tensorboard: what it needs is not installed: pip install -e '\.\[tensorboard\]'"):
        track(run)
