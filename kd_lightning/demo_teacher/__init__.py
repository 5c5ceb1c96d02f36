"""The teacher of scale=demo: a small BERT, pre-trained from scratch. Its model card is README.md beside this file."""

from pathlib import Path


def path() -> str:
    """The folder that transformers loads it from."""
    return str(Path(__file__).parent)
