"""README.ko.md goes with README.md: the same commands, the same sections, and no file that is not there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENGLISH, KOREAN = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md"))


def commands(text: str) -> list[list[str]]:
    """The lines of each block, without what a comment says."""
    blocks = re.findall(r"```(?:sh|python)\n(.*?)```", text, re.DOTALL)
    return [[line.partition("  #")[0].rstrip() for line in block.splitlines()] for block in blocks]


def levels(text: str) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)]


def test_both_have_the_same_commands():
    assert len(commands(KOREAN)) > 5
    assert commands(KOREAN) == commands(ENGLISH)


def test_both_have_the_same_sections():
    assert len(levels(KOREAN)) > 4
    assert levels(KOREAN) == levels(ENGLISH)


def test_every_file_that_the_korean_one_names_is_there():
    cells = re.findall(r"^\| (?!---)(.*) \|$", KOREAN.partition("## 읽기")[2], re.MULTILINE)[1:]
    named = [name for line in cells for name in re.findall(r"`([\w./]+)`", line)]
    assert len(named) > 10
    missing = [name for name in named if not ((ROOT / name).exists() or (ROOT / "kd_lightning" / name).exists())]
    assert missing == []


@pytest.mark.parametrize(
    "words", [r"python -m kd_lightning\.(\w+)", r"`experiment=(\w+)", r"`task=(\w+)", r"`student/\w+=(\w+)"]
)
def test_what_the_korean_one_names_the_english_one_names_too(words):
    assert set(re.findall(words, KOREAN)) <= set(re.findall(r"\w+", ENGLISH))
