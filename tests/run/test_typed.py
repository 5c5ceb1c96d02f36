"""What was typed is what messages and the command that goes on begin with."""

from pathlib import Path

import pytest

from kd_lightning.run import typed

PACKAGE = Path(typed.__file__).parents[1]


@pytest.mark.parametrize(
    ("file", "words", "several"),
    [
        ("train.py", "python train.py", "torchrun --nproc-per-node=2 train.py"),
        ("/somewhere/kd_lightning/train.py", "python train.py", "torchrun --nproc-per-node=2 train.py"),
        ("/venv/bin/kd-lightning", "kd-lightning", "torchrun --nproc-per-node=2 --no-python kd-lightning"),
        (str(PACKAGE / "train.py"), "python -m kd_lightning.train", "torchrun --nproc-per-node=2 -m kd_lightning.train"),
    ],
)
def test_the_command_begins_as_it_was_typed(file, words, several, monkeypatch):
    monkeypatch.setattr("sys.argv", [file, "method=bow"])
    assert " ".join(typed.program()) == words
    assert " ".join(typed.torchrun(2)) == several


def test_a_file_with_commas_in_its_name_is_one_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a,b=c.csv").touch()
    assert typed.whole("task.files.train=a,b=c.csv") == 'task.files.train="a,b=c.csv"'
    assert [typed.whole(word) for word in ("x=a,b.csv", "-m", "x=1")] == ["x=a,b.csv", "-m", "x=1"]
