"""Rows of files, a block at a time, and bad ones that cost no others."""

import csv
import json
import re

import pandas
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset
from pyarrow import parquet

from kd_lightning.data import formats, json_rows
from kd_lightning.data.formats import parquet_rows, say


@pytest.fixture
def grouped(tmp_path):
    """Seven rows in groups of three."""
    labels = Dataset.from_dict({"text": [f"w{i}" for i in range(7)], "label": [1, 0, -1, None, 1, 1, 0]})
    parquet.write_table(
        labels.cast_column("label", ClassLabel(names=["no", "yes"])).with_format("arrow")[:],
        tmp_path / "rows.parquet",
        row_group_size=3,
    )
    return tmp_path / "rows.parquet"


def test_rows_of_a_parquet_file_are_counted_over_its_blocks_and_classes_have_their_names(grouped, monkeypatch):
    monkeypatch.setattr("kd_lightning.data.formats.BLOCK", 3)
    rows = list(parquet_rows(grouped))
    assert [place for place, _ in rows] == [f"row {number}" for number in range(1, 8)]
    assert [row["text"] for _, row in rows] == [f"w{i}" for i in range(7)]
    assert [row["label"] for _, row in rows] == ["yes", "no", None, None, "yes", "yes", "no"]


def test_a_parquet_file_is_read_no_further_than_it_is_asked(grouped, monkeypatch):
    """Its second group of rows is destroyed, which shows only there."""
    monkeypatch.setattr("kd_lightning.data.formats.BLOCK", 3)
    text = parquet.ParquetFile(grouped).metadata.row_group(1).column(0)
    with grouped.open("r+b") as file:
        file.seek(text.dictionary_page_offset)
        file.write(bytes(text.total_compressed_size))
    rows = parquet_rows(grouped)
    assert [next(rows)[1]["text"] for _ in range(3)] == ["w0", "w1", "w2"]
    with pytest.raises((OSError, ValueError)):
        next(rows)


def read(path) -> tuple[list[dict], list[str]]:
    """The good rows and what is said of the bad ones."""
    rows = list(formats.quoted(path))
    return [row for _, row in rows if isinstance(row, dict)], [f"{at}: {row}" for at, row in rows if not isinstance(row, dict)]


@pytest.fixture
def sixty(tmp_path):
    """Sixty rows, of which some lines are exchanged: number of the line -> another one."""
    say.cache_clear()
    rows = [f"text {n},{'good' if n % 2 else 'poor'}" for n in range(60)]

    def make(**other: str):
        lines = ["text,label", *rows]
        for number, line in other.items():
            lines[int(number[1:]) - 1] = line
        (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
        return tmp_path / "a.csv", [dict(zip(("text", "label"), row.split(","), strict=True)) for row in rows]

    return make


STRAY = [
    ({"_6": '"text 4,poor'}, "line 6: a quote opens a field here and none closes it", {6}),
    ({"_6": '"text 4,poor', "_31": '"text, 29",good'}, "line 6: a quote opens a field here that runs on to line 31", {6}),
    ({"_6": '"text 4,poor', "_31": 'screen 5",good'}, "line 6: .* swallows the rows to line 31; close it, or double it", {6}),
    ({"_6": '"text 4,poor', "_7": 'screen 5",good'}, "line 6: .* swallows the rows to line 7", {6}),
    ({"_6": 'text 4,"poor', "_9": 'text 7,5"'}, "line 6: .* swallows the rows to line 9", {6}),
    ({"_61": '"text 59,good'}, "line 61: a quote opens a field here and none closes it", {61}),
]


@pytest.mark.parametrize(("lines", "said", "lost"), STRAY)
def test_a_stray_quote_costs_its_own_line_and_no_other(lines, said, lost, sixty):
    path, expected = sixty(**lines)
    rows, bad = read(path)
    assert len(bad) == 1
    assert re.match(said, bad[0])
    changed = {int(number[1:]) for number in lines}
    assert len(rows) == 60 - len(lost)
    kept = [n for n in range(60) if n + 2 not in lost]
    assert [rows[i] for i, n in enumerate(kept) if n + 2 not in changed] == [expected[n] for n in kept if n + 2 not in changed]


def test_fields_of_several_lines_are_read_as_pandas_reads_them_and_are_said(tmp_path, capsys):
    say.cache_clear()
    texts = ['a "quoted", long\nreview, of\n\nfour lines', "two\r\nlines", "He said: no,\nthen yes", "one, line", "", "42"]
    pandas.DataFrame({"text": texts, "label": list("ababab")}).to_csv(tmp_path / "a.csv", index=False)
    rows, bad = read(tmp_path / "a.csv")
    assert bad == []
    assert rows == pandas.read_csv(tmp_path / "a.csv", dtype=str, keep_default_na=False).to_dict("records")
    assert [row["text"] for row in rows] == texts
    printed = capsys.readouterr()
    assert "a.csv: 3 rows run over several lines, in quotes; the longest is lines 2 to 5." in printed.err
    assert printed.out == ""  # where answers are written


def test_one_column_may_hold_lines(tmp_path):
    say.cache_clear()
    (tmp_path / "a.csv").write_text('text\n"one\ntwo\nthree"\nfour\n')
    assert read(tmp_path / "a.csv") == ([{"text": "one\ntwo\nthree"}, {"text": "four"}], [])


def test_a_parquet_file_with_a_column_twice_is_refused(tmp_path):
    table = pa.table([["w5"], ["w6"], ["a"]], names=["text", "text", "label"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: the column text stands twice"):
        list(parquet_rows(tmp_path / "a.parquet"))


def test_json_arrays_and_lines_give_the_same_rows(tmp_path):
    expected = [{"text": "w5", "n": 1}, {"text": 'a "b"\n', "n": None}]
    files = {
        "a": json.dumps(expected),
        "b": f"\n \n{json.dumps(expected, indent=2)}\n",
        "c": "".join(f"{json.dumps(r)}\n" for r in expected),
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(content)
        assert [row for _, row in formats.json_file(tmp_path / f"{name}.json")] == expected


@pytest.mark.parametrize("line", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000, '{"a": 1', "nonsense"])
def test_a_bad_line_of_json_is_a_bad_row_whatever_the_parser_makes_of_it(line, tmp_path):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "w5"}}\n{line}\n{{"text": "w6"}}\n')
    first, second, third = (row for _, row in formats.json_lines(tmp_path / "a.jsonl"))
    assert (first, third) == ({"text": "w5"}, {"text": "w6"})
    assert isinstance(second, ValueError)


ROWS = [{"text": f"w{n} {'안' * (n % 7)}", "labels": {"label": n / 4, "names": [n, None, True]}} for n in range(40)]


@pytest.mark.parametrize("block", [1, 3, 50, 1 << 16])
@pytest.mark.parametrize("indent", [None, 4])
def test_an_array_is_read_a_block_at_a_time_wherever_its_rows_are_cut(indent, block, tmp_path, monkeypatch):
    monkeypatch.setattr("kd_lightning.data.json_rows.BLOCK", block)
    content = json.dumps(ROWS, ensure_ascii=False, indent=indent)
    (tmp_path / "a.json").write_text(f"\n {content} \n\n", encoding="utf-8")
    assert list(formats.json_file(tmp_path / "a.json")) == [(f"row {n}", row) for n, row in enumerate(ROWS, 1)]
    (tmp_path / "b.json").write_text(" [ ] ")
    assert list(formats.json_file(tmp_path / "b.json")) == []
    (tmp_path / "c.json").write_text("[1, {}]")
    assert [str(row) for _, row in formats.json_file(tmp_path / "c.json")] == ["not a JSON object", "{}"]


@pytest.mark.parametrize("block", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"a": 1},\n\n {"a": 2}', r"after row 2: not JSON \(Expecting ',': line 3, column 10\)"),
        ('[{"a": 1} {"a": 2}]', r"after row 1: not JSON \(Expecting ',': line 1, column 11\)"),
        ('[{"a": 1},\n]', r"after row 1: not JSON \(Expecting value: line 2, column 1\)"),
        ('[{"a": 1},\n {"a": x2}, {"a": 3}]', r"after row 1: not JSON \(Expecting value: line 2, column 8\)"),
        ('[{"a": 1}]\n[{"a": 2}]', r"after row 1: not JSON \(Extra data: line 2, column 1\)"),
        ('[{"a": 1, "a": 2}]', r"array: 'a' stands in it twice\."),
        ("[" * 100_000, r"array: not JSON that can be read \(it is nested too deeply\)"),
    ],
)
def test_a_damaged_array_is_refused_with_the_place_in_its_file(content, words, block, tmp_path, monkeypatch):
    monkeypatch.setattr("kd_lightning.data.json_rows.BLOCK", max(block, len(content) // 100))
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=rf"a\.json is no JSON array {words}" if words[:5] == "after" else words):
        list(formats.json_file(tmp_path / "a.json"))


def test_of_an_array_no_more_is_held_than_a_block_and_its_longest_row(tmp_path, monkeypatch):
    """Forty times a row of 10,000 characters; a fault in its first tenth stops the reading there."""
    held = []
    more = json_rows._Window._more
    monkeypatch.setattr("kd_lightning.data.json_rows.BLOCK", 1000)
    monkeypatch.setattr(json_rows._Window, "_more", lambda self, size: (more(self, size), held.append(len(self.held)))[0])
    content = json.dumps([{"text": "w" * 10_000}] * 40)
    (tmp_path / "a.json").write_text(content)
    assert len(list(formats.json_file(tmp_path / "a.json"))) == 40
    assert 10_000 <= max(held) <= 40_000
    held.clear()
    (tmp_path / "a.json").write_text(content.replace("w", "\n", 1))
    with pytest.raises(ValueError, match="Invalid control character"):
        list(formats.json_file(tmp_path / "a.json"))
    assert max(held, default=0) <= 4_000


def test_a_quoted_tsv_is_read_as_the_csv_module_of_python_reads_it_and_a_plain_one_never_is(tmp_path):
    say.cache_clear()
    rows = [['그는 "좋다"고 했다', "1"], ["two\nlines\tand a tab", "0"], ["plain", "1"]]
    with (tmp_path / "a.tsv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, "excel-tab").writerows([["text", "label"], *rows])
    read = formats.reader_of(tmp_path / "a.tsv", "quoted_tsv")
    assert [list(row.values()) for _, row in read(tmp_path / "a.tsv")] == rows
    plain = [row for _, row in formats.reader_of(tmp_path / "a.tsv", None)(tmp_path / "a.tsv")]
    assert plain[0]["text"] == '"그는 ""좋다""고 했다"'


def test_a_format_that_is_none_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"task\.format=xls: choose csv, tsv, jsonl, json, parquet, ndjson, quoted_tsv, or"):
        formats.reader_of("a.csv", "xls")
    with pytest.raises(ValueError, match=r"a\.txt ends in none of .*Rename it, or say what it is, e\.g\. task\.format=tsv"):
        formats.reader_of("a.txt", None)
