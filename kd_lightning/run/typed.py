"""What a person has typed: the words before the settings, and settings that Hydra reads as they were meant."""

import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def program() -> list[str]:
    """The words that begin the command, to be typed again. The last one is the name that messages begin with."""
    file = Path(sys.argv[0])
    if file.stem == "kd-lightning":  # which installing the package makes
        return ["kd-lightning"]
    return ["python", "-m", "kd_lightning.train"] if file.resolve().parent == PACKAGE else ["python", "train.py"]


def torchrun(processes: int | str) -> list[str]:
    """The same for so many processes on this machine."""
    words = program()
    python = words[1:] if words[0] == "python" else ["--no-python", *words]
    return ["torchrun", f"--nproc-per-node={processes}", *python]


def whole(word: str) -> str:
    """A word of the command line in which the name of a file, commas and all, is one value for Hydra."""
    name, _, value = word.partition("=")
    return f'{name}="{value}"' if set(value) & set(",=") and Path(value).exists() else word
