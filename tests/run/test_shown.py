"""Strings from outside, where a person reads them."""

import csv
import io

import pytest

from kd_lightning.run.report import console, show, write_csv
from kd_lightning.run.shown import acts, csv_cell, markdown_cell, printable


def test_what_a_terminal_obeys_is_written_out():
    assert printable("a\x1b[31mb\x07\r\n\x9b\u202e\ud800") == "a\\x1b[31mb\\x07\\r\\n\\x9b\\u202e\\ud800"


@pytest.mark.parametrize("text", ["plain", "Größe ± 1", "日本語", "क्‍ष", "👩‍🔬", "a  b", ""])
def test_writing_of_people_stays_as_it_is(text):
    assert printable(text) == text
    assert not any(map(acts, text))


def test_the_console_shows_no_escape(capfd):
    show([{"mo\x1b[2Jdel": "a\x1b]0;title\x07b", "value": "\x1b[31m1"}], "caption")
    console.print("", end="")
    shown = capfd.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\\x1b]0;title" in shown


FORMULAS = [
    "=1+1",
    '=HYPERLINK("x")',
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "-",
    "+1e",
    "-0.5x",
    "--1",
]
FIGURES = ["0.5", "-0.5", "+0.5000", "-1e-05", "-.5", "-3.", "-0.1000 ± 0.0200", "5.31M", "", "tinybert", "a=b", "0.8 (x, -1)"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_in_a_csv_begins_with_an_apostrophe(text, tmp_path):
    assert csv_cell(text) == f"'{text}"
    write_csv(tmp_path / "a.csv", [{"model": text, text: "-1"}])
    header, row = csv.reader(io.StringIO((tmp_path / "a.csv").read_bytes().decode(), newline=""))
    assert (header, row) == (["model", f"'{text}"], [f"'{text}", "-1"])


@pytest.mark.parametrize("text", FIGURES)
def test_numbers_and_names_stay_as_they_are(text):
    assert csv_cell(text) == text


def test_a_cell_of_markdown_begins_no_column_link_or_html():
    assert markdown_cell("a|b") == "a\\|b"
    assert markdown_cell("a\\|b") == "a\\\\\\|b"
    assert markdown_cell("[x](javascript:y)<img>`") == "\\[x](javascript:y)\\<img>\\`"
    assert markdown_cell("a\nb") == "a\\\\nb"
