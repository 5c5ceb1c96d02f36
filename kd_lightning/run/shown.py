"""Strings from outside (labels, names, columns) where a person reads them: nothing in them acts, and nothing is hidden."""

import re
import unicodedata

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # with one of these a spreadsheet takes a cell for a formula, or may
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
FIGURE = re.compile(rf"{NUMBER.pattern}( ± {NUMBER.pattern})?", re.IGNORECASE | re.ASCII)


def acts(character: str) -> bool:
    """Whether a terminal may obey it and not show it: controls, line ends, half characters, and what turns the direction."""
    turns = "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    return turns or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    """The text with each of these characters written out: an escape is seen as \\x1b."""
    return "".join(c.encode("unicode_escape").decode() if acts(c) else c for c in text)


def csv_cell(text: str) -> str:
    """The text as a cell that no spreadsheet computes: an apostrophe before what looks like a formula and is no number."""
    return f"'{text}" if text.startswith(FORMULA) and not FIGURE.fullmatch(text) else text


def markdown_cell(text: str) -> str:
    """The text in a cell of a Markdown table: no column, link or HTML begins in it."""
    return re.sub(r"([\\|<\[`])", r"\\\1", printable(text))
