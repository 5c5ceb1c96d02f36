"""The package as pip installs it: a wheel that trains from any folder, with groups of one's own."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = {  # in the wheel -> here
    **{f"kd_lightning/{path.relative_to(ROOT / 'kd_lightning')}": path for path in (ROOT / "kd_lightning").rglob("*.*")},
    **{f"kd_lightning/conf/{path.relative_to(ROOT / 'conf')}": path for path in (ROOT / "conf").rglob("*.yaml")},
}
TASK = """
defaults:
  - table
  - _self_

name: mine
files:
  train: ???
text: [review]
label: stars
"""


def test_every_folder_of_the_package_is_named():
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "kd_lightning").rglob("*.py")}
    named = {".".join(folder.parts) for folder in folders} | {"kd_lightning.conf"}
    assert len(named) > 10
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == named


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    setuptools = pytest.importorskip("setuptools", reason="a wheel is built with setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip(f"a wheel is built with setuptools 77 or later, and {setuptools.__version__} is here")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools leaves folders of its own there
    for name in ("kd_lightning", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "train.py"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    """A folder with the package and, in bin, its command."""
    site = wheel.parent / "site"
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", site, wheel)
    return site


def pip(*words: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def typed(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    """kd-lightning with these words, in a folder."""
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(site / "bin" / "kd-lightning"), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_it_holds_the_package_its_configuration_and_its_licence_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        files = {name.rpartition("/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
        held = {name: archive.read(name) for name in [*names, files["LICENSE"], files["METADATA"]]}
    expected = {name: path for name, path in SOURCES.items() if "__pycache__" not in path.parts}
    assert len(expected) > 200
    assert names == set(expected)
    assert all(held[name] == path.read_bytes() for name, path in expected.items())
    assert held[files["LICENSE"]] == (ROOT / "LICENSE").read_bytes()
    assert f"License-Expression: {SETTINGS['project']['license']}" in held[files["METADATA"]].decode().splitlines()


def test_it_trains_a_step_elsewhere_on_a_task_of_ones_own(installed, tmp_path):
    """--config-dir names a folder of further groups, here a task of one's own."""
    (tmp_path / "groups" / "task").mkdir(parents=True)
    (tmp_path / "groups" / "task" / "mine.yaml").write_text(TASK)
    rows = [f"a text of class {n % 2} and number {n},{('bad', 'good')[n % 2]}" for n in range(40)]
    (tmp_path / "my,rows.csv").write_text("\n".join(["review,stars", *rows]) + "\n")
    words = ["--config-dir=groups", "task=mine", "task.files.train=my,rows.csv", "method=finetune", "stage=teacher"]
    done = typed(installed, tmp_path, *words, "trainer.max_steps=1", "trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (folder,) = (file.parent for file in tmp_path.glob("artifacts/demo/mine/*/model.safetensors"))
    assert re.search(r"^command: kd-lightning task=mine .*trainer\.max_steps=1", (folder / "run.yaml").read_text(), re.M)


def test_a_mistake_begins_with_the_name_of_what_was_typed(installed, tmp_path):
    done = typed(installed, tmp_path, "method=tinybrt")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "kd-lightning: method=tinybrt: there is no such choice. Did you mean tinybert?\n"
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("name: {mine: ???}\n")
    done = typed(installed, tmp_path, "--config-dir=.", "method=mine")
    assert re.fullmatch(r"kd-lightning: \S+/method/mine\.yaml, line 1: this is no YAML \(.*\)\.\n", done.stderr)
