"""What is cleaned up, and what never is."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from kd_lightning.clean import clean

OLD = time.time() - 40 * 24 * 3600


@pytest.fixture
def place(tmp_path):
    """`done` has left its artifact, `begun` was interrupted, `used` is trained; the cache has an old and a new entry."""
    for name in ("done", "begun", "used"):
        write(tmp_path / "artifacts" / "demo" / f"{name}.run" / "checkpoints" / "last.ckpt", 3000)
    for name in ("run.yaml", "metrics.json", "model.safetensors"):
        write(tmp_path / "artifacts" / "demo" / "done" / name, 5000)
    write(tmp_path / "cache" / "old" / "rows.arrow", 7000)
    write(tmp_path / "cache" / "new" / "rows.arrow", 7000, time.time())
    return tmp_path


def write(file: Path, size: int, when: float = OLD) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"0" * size)
    os.utime(file, (when, when))


def cleaned(place: Path, **choice) -> dict[str, float]:
    given = {"unfinished": False, "dry_run": False} | choice
    return {path.name: size for path, size in clean(place / "artifacts", place / "cache", 30, **given)}


def test_old_curves_of_finished_stages_and_old_cache_entries_go_and_the_rest_stays(place):
    assert cleaned(place) == {"done.run": 0.003, "old": 0.007}
    assert sorted(path.name for path in (place / "artifacts" / "demo").iterdir()) == ["begun.run", "done", "used.run"]
    assert [path.name for path in (place / "cache").iterdir()] == ["new"]


def test_a_dry_run_says_the_same_and_removes_nothing(place):
    before = sorted(place.rglob("*"))
    assert cleaned(place, dry_run=True) == {"done.run": 0.003, "old": 0.007}
    assert sorted(place.rglob("*")) == before


def test_interrupted_stages_go_when_it_is_said_and_what_is_worked_on_never(place):
    with FileLock(place / "artifacts" / "demo" / "used.lock"):
        assert set(cleaned(place, unfinished=True)) == {"done.run", "begun.run", "old"}
    assert (place / "artifacts" / "demo" / "used.run" / "checkpoints" / "last.ckpt").is_file()


def test_the_command_says_how_much(place):
    words = ["--older-than", "30", "--dry-run", "--artifacts", f"{place}/artifacts", "--cache", f"{place}/cache"]
    done = subprocess.run([sys.executable, "-m", "kd_lightning.clean", *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "2 would be removed, 0.0 MB."
