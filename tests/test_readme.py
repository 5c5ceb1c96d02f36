"""What the README says can be typed can be typed."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
DEMO = BLOCKS[0].rpartition("&& .venv/bin/")[2].strip()
TYPED = [line.partition("  #")[0].strip() for line in BLOCKS[2].splitlines()]


def test_the_ci_script_runs_the_readmes_test_command():
    assert BLOCKS[1].strip() in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [DEMO, *TYPED])
def test_every_train_command_of_the_readme_composes(command):
    words = shlex.split(command)
    assert words[:2] == ["python", "train.py"]
    overrides = [re.sub(r"=([^,\[]+),.*", r"=\1", word) for word in words[2:] if word != "-m"]  # the first of a sweep
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose("train", overrides).artifact


def test_the_names_in_the_readme_exist():
    for group in ("method", "task", "scale"):
        row = re.search(rf"\| `{group}` \| (.*) \|", README)[1]
        for name in re.findall(r"`(\w+)`", row):
            assert (ROOT / "conf" / group / f"{name}.yaml").is_file(), f"{group}={name}"
    for name in re.findall(r"`(?:experiment=)?(demo\w*|tinybert_\w+|distilbert_\w+)`", README):
        assert any((ROOT / "conf").glob(f"*/{name}.yaml")), name
