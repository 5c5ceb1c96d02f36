"""What a sweep leaves: results as a person finds them, whatever became of its jobs."""

import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from kd_lightning.run.launcher import OneGPU
from kd_lightning.run.report import kept
from kd_lightning.run.sweep import Found, Summary, gather, keep_result, summarise

CONF = Path(__file__).parents[2] / "conf"
APP = """
import os, signal
import hydra
from hydra.core.hydra_config import HydraConfig
from kd_lightning.run.sweep import Found, keep_result
from pathlib import Path

@hydra.main(config_path=None, config_name="app", version_base="1.3")
def main(cfg):
    if cfg.x == 2:
        raise RuntimeError("the memory is too small\\nand more")
    if cfg.x == 3:
        raise ValueError("x=3: choose another.")
    folder = Path(HydraConfig.get().runtime.output_dir)
    keep_result(folder, list(HydraConfig.get().overrides.task), 1.5, Found("val/x", [float(cfg.x)], None, None, None, "there"))
    return float(cfg.x)

main()
"""


def found(**changes) -> Found:
    return Found(**{"metric": "val/a", "scores": [0.5], "retention": 0.9, "ms": 2.0, "MB": 5.8, "artifact": "a/b"} | changes)


def test_a_summary_lists_finished_failed_pruned_and_killed_jobs_in_their_order(tmp_path, capsys):
    keep_result(tmp_path / "10", ["x=10"], 3.0, found(scores=[0.2, 0.4]))
    keep_result(tmp_path / "2", ["x=2"], 1.0, None, "=too\x1b large")
    keep_result(tmp_path / "3", ["x=3"], 1.0, None)
    (tmp_path / "4" / ".hydra").mkdir(parents=True)
    (tmp_path / "4" / ".hydra" / "overrides.yaml").write_text("- x=4\n")
    assert not summarise(tmp_path)
    rows = list(csv.DictReader((tmp_path / "summary.csv").read_text().splitlines()))
    assert [row["x"] for row in rows] == ["2", "3", "4", "10"]
    assert [row["value"] for row in rows[:3]] == ["failed", "pruned", "not finished"]
    assert rows[3]["value"] == f"{statistics.mean([0.2, 0.4]):.4f} ± {statistics.stdev([0.2, 0.4]):.4f}"
    assert [rows[3][name] for name in ("retention", "ms", "MB", "seconds", "artifact")] == [
        "0.9000",
        "2.00",
        "5.80",
        "3.00",
        "a/b",
    ]
    assert rows[0]["error"].startswith("'=too")  # no spreadsheet computes it
    assert "\x1b large" not in capsys.readouterr().out


def test_a_damaged_result_and_an_empty_folder_are_said_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="no job has begun there"):
        summarise(tmp_path)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "result.json").write_text('{"overrides": 3')
    with pytest.raises(ValueError, match=r"result.json is damaged"):
        gather(tmp_path)


@pytest.mark.parametrize("launcher", ["basic", "local", "submitit_local"])
def test_jobs_that_raise_are_listed_and_the_others_go_on(launcher, tmp_path):
    pytest.importorskip({"local": "joblib", "submitit_local": "submitit"}.get(launcher, "hydra"))
    (tmp_path / "app.py").write_text(APP.replace("config_path=None", f"config_path={str(tmp_path)!r}"))
    summary = {"_target_": "kd_lightning.run.sweep.Summary"}
    hydra = {"callbacks": {"summary": summary}, "searchpath": [f"file://{CONF}"], "sweep": {"dir": f"{tmp_path}/sweep"}}
    (tmp_path / "app.yaml").write_text(json.dumps({"x": 0, "hydra": hydra}))
    words = [sys.executable, f"{tmp_path}/app.py", "-m", "x=1,2,3,4", f"hydra/launcher={launcher}"]
    path = os.pathsep.join([str(CONF.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False, cwd=tmp_path
    )
    rows = list(csv.DictReader((tmp_path / "sweep" / "summary.csv").read_text().splitlines()))
    assert [row["value"] for row in rows] == ["1.0000", "failed", "failed", "4.0000"], done.stderr
    assert [row["error"] for row in rows[1:3]] == ["RuntimeError: the memory is too small", "x=3: choose another."]
    assert done.returncode == 1
    assert "ValueError" not in done.stderr  # a user's mistake has no traceback


def test_a_job_that_begins_anew_forgets_what_an_earlier_one_found_there(tmp_path):
    keep_result(tmp_path, ["x=1"], 1.0, found())
    Summary().on_job_start(OmegaConf.create({"hydra": {"runtime": {"output_dir": str(tmp_path)}}}))
    assert not (tmp_path / "result.json").exists()


def test_a_launcher_whose_plugin_is_missing_says_what_to_install():
    launcher = {"_target_": "hydra_plugins.hydra_none_launcher.NoneLauncher"}
    hydra = {"launcher": launcher, "runtime": {"choices": {"hydra/launcher": "ray"}}}
    with pytest.raises(SystemExit, match=r"hydra/launcher=ray.*pip install -e '.\[ray\]'"):
        Summary().on_multirun_start(OmegaConf.create({"hydra": hydra}))


def test_workers_share_the_gpus_out_and_keep_the_first_that_they_got(monkeypatch):
    used = SimpleNamespace(begun=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: used.begun)
    given = []
    for number in (0, 1, 2, 3):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
        OneGPU().on_job_start(OmegaConf.create({"hydra": {"job": {"num": number}}}))
        given.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert given == ["4", "7", "4", "7"]
    used.begun = True
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    OneGPU().on_job_start(OmegaConf.create({"hydra": {"job": {"num": 1}}}))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4"


ROWS = [{"model": "teacher", "ms": "2.00"}, {"model": "student", "ms": "1.00"}]
TABLE = {"made_of": ["a"], "rows": ROWS, "caption": "c", "lines": []}


def test_a_table_is_shown_again_as_it_is(tmp_path):
    (tmp_path / "table.json").write_text(json.dumps(TABLE))
    assert kept(tmp_path / "table.json", ["a"], 2).rows == ROWS


@pytest.mark.parametrize(
    "changes",
    [
        {"made_of": ["b"]},
        {"rows": ROWS[:1]},
        {"rows": [ROWS[0], {"model": "student", "MB": "1"}]},
        {"rows": [ROWS[0], {"model": "student", "ms": "inf"}]},
        {"rows": [ROWS[0], {"model": "student", "ms": "fast"}]},
        {"rows": "ab"},
        {"lines": [3]},
    ],
)
def test_a_table_of_other_artifacts_or_a_damaged_one_is_measured_again(changes, tmp_path):
    (tmp_path / "table.json").write_text(json.dumps(TABLE | changes))
    assert kept(tmp_path / "table.json", ["a"], 2) is None
    assert kept(tmp_path / "none.json", ["a"], 2) is None
