"""What names a class, and what is none, alike in every format."""

import decimal
import gzip
import io
import json

import pandas
import pytest

from kd_lightning.data.rows import class_name, class_numbers, closest, missing, say
from kd_lightning.data.table import Table, classes

TEXTS = [f"w{i} w{i % 7}" for i in range(24)]


@pytest.mark.parametrize(
    ("spellings", "name"),
    [
        ((1, 1.0, "1", "1.0", " 1.00 ", decimal.Decimal("1.0")), "1"),
        ((0, 0.0, -0.0, "-0.0"), "0"),
        ((-1, "-1.0"), "-1"),
        ((1.5, "1.5", "1.50"), "1.5"),
        ((True, "true", "True", "TRUE "), "True"),
        ((False, "false"), "False"),
        (("good", "good ", "\tgood", "good\u00a0"), "good"),
        (("caf\u00e9", "cafe\u0301"), "caf\u00e9"),
        (("007",), "007"),
        (("US",), "US"),
        (("us",), "us"),
        ((10**16, 1e16), "10000000000000000"),
    ],
)
def test_spellings_of_one_class_have_one_name(spellings, name):
    assert {class_name(value) for value in spellings} == {name}


@pytest.mark.parametrize("value", [["a"], {"a": 1}, float("inf"), b"a"])
def test_what_is_no_text_number_or_truth_names_no_class(value):
    with pytest.raises(ValueError, match="a class is a text, a whole number or true or false"):
        class_name(value)


@pytest.mark.parametrize("value", [None, float("nan"), "", "  "])
def test_nothing_is_missing(value):
    assert missing(value)


@pytest.mark.parametrize("value", [0, False, "0", "nan", [], "None"])
def test_a_value_is_not_missing(value):
    assert not missing(value)


def test_classes_are_found_by_their_own_name_and_by_that_of_the_format():
    assert class_numbers(["1.0", "2"]) == {"1.0": 0, "1": 0, "2": 1}
    assert class_numbers(["US", "us"]) == {"US": 0, "us": 1}
    with pytest.raises(ValueError, match=r"task\.labels: 1 and 1\.0 are one class\. Name it once"):
        class_numbers(["1", "1.0"])


def test_the_nearest_columns_are_proposed():
    assert closest(["reviw", "TEXT"], ["id", "Review", " text "]) == " Did you mean 'Review' and ' text '?"
    assert closest(["text"], ["ID", "TEXT"]) == " Did you mean 'TEXT'?"
    assert closest(["stars"], ["id", "text"]) == ""


def csv_file(labels) -> bytes:
    """As a spreadsheet writes them: a truth in capitals, nothing as nothing."""
    spelt = ["" if missing(label) else str(label).upper() if isinstance(label, bool) else str(label) for label in labels]
    return "".join(f"{text},{label}\n" for text, label in zip(["text", *TEXTS], ["label", *spelt], strict=False)).encode()


def jsonl_file(labels) -> bytes:
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet_file(labels) -> bytes:
    made = io.BytesIO()
    pandas.DataFrame({"text": TEXTS, "label": labels}).to_parquet(made)
    return made.getvalue()


WRITERS = {
    ".csv": csv_file,
    ".TSV": lambda labels: csv_file(labels).replace(b",", b"\t"),
    ".csv.GZ": lambda labels: gzip.compress(csv_file(labels)),
    ".jsonl": jsonl_file,
    ".ndjson": jsonl_file,
    ".json": lambda labels: json.dumps([json.loads(line) for line in jsonl_file(labels).splitlines()], indent=1).encode(),
    ".parquet": parquet_file,
}


@pytest.fixture
def table(tmp_path):
    say.cache_clear()

    def make(suffix: str, content: bytes, labels: list | None = None, **other) -> Table:
        path = tmp_path / f"train{suffix}"
        path.write_bytes(content)
        found = labels or classes(file=str(path), hub=None, label="label", format=None)
        given = {
            "text": ["text"],
            "label": "label",
            "validation_share": 0.2,
            "split_seed": 0,
            "on_bad_row": "error",
            "on_empty": "error",
            "format": None,
        }
        return Table(name="table", hub=None, files={"train": str(path)}, labels=found, **given | other)

    return make


def spelt(reader: Table) -> dict[str, str]:
    splits = reader.splits(unlabelled=False)
    rows = [row for name in ("train", "validation") for row in splits[name]]
    return {row["sentence1"]: reader.labels[row["label"]] for row in rows}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    ("values", "names"),
    [((1, 2, 3), ("1", "2", "3")), ((1.0, 2.0, 3.5), ("1", "2", "3.5")), ((True, False, True), ("True", "False", "True"))],
)
def test_numbers_and_truths_are_the_same_classes_in_every_format(values, names, suffix, table):
    reader = table(suffix, WRITERS[suffix]([values[i % 3] for i in range(24)]))
    assert reader.labels == sorted(set(names))
    assert spelt(reader) == {text: names[i % 3] for i, text in enumerate(TEXTS)}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("nothing", [None, float("nan"), ""])
def test_what_is_missing_is_no_class_in_any_format(nothing, suffix, table):
    content = WRITERS[suffix]([("good", "poor", nothing)[i % 3] for i in range(24)])
    with pytest.raises(ValueError, match=r"has 8 bad rows \((line|row) \d+: label is missing; "):
        table(suffix, content)
    reader = table(suffix, content, on_bad_row="skip")
    assert reader.labels == ["good", "poor"]
    assert spelt(reader) == {text: ("good", "poor")[i % 3] for i, text in enumerate(TEXTS) if i % 3 < 2}


def test_words_for_nothing_are_no_class_but_where_they_are_named(table):
    content = csv_file([("good", "None", "NaN", "null")[i % 4] for i in range(24)])
    with pytest.raises(
        ValueError, match=r"line 3: label is 'None', which stands for a missing one; a class of this name is named"
    ):
        table(".csv", content, labels=["good", "poor"])
    with pytest.raises(ValueError, match="every row has the label 'good'"):
        table(".csv", content)
    reader = table(".csv", content, labels=["good", "None"], on_bad_row="skip")
    assert set(spelt(reader).values()) == {"good", "None"}


def test_spellings_that_differ_from_row_to_row_are_one_class(table):
    labels = ["good", "good ", 1, 1.0, "1", True, "true", "True"]
    reader = table(".jsonl", jsonl_file([labels[i % 8] for i in range(24)]))
    assert reader.labels == ["1", "True", "good"]
    names = ("good", "good", "1", "1", "1", "True", "True", "True")
    assert spelt(reader) == {text: names[i % 8] for i, text in enumerate(TEXTS)}


def test_labels_that_are_named_may_be_truths_or_numbers(table):
    reader = table(".jsonl", jsonl_file([i % 2 == 0 for i in range(24)]), labels=[False, True])
    assert spelt(reader) == {text: str(i % 2 == 0) for i, text in enumerate(TEXTS)}
    reader = table(".csv", csv_file([i % 2 for i in range(24)]), labels=[1.0, 0.0])
    assert spelt(reader) == {text: ("0.0", "1.0")[i % 2] for i, text in enumerate(TEXTS)}


def test_labels_in_lists_are_refused(table):
    content = jsonl_file([["good"], "poor", "good"] * 8)
    with pytest.raises(ValueError, match=r"has 8 bad rows \(line 1: label is \['good'\], and a class is a text"):
        table(".jsonl", content)
    assert len(spelt(table(".jsonl", content, on_bad_row="skip"))) == 16


def test_a_byte_that_is_not_utf_8_is_named_with_what_to_do(table, capsys):
    content = csv_file(["good", "poor"] * 12).replace(b"w3 w3", b"caf\xe9").replace(b"w5 w5,poor", b"w5 w5,p\xf6\xf6r")
    words = r"In line 5 the byte 0xe9 is not UTF-8\. If the file is Latin-1, convert it: iconv -f latin1 -t utf-8"
    with pytest.raises(ValueError, match=words):
        table(".csv", content)
    assert len(spelt(table(".csv", content, on_bad_row="skip"))) == 22
    assert "2 bad rows left out (line 5: text holds bytes that are not UTF-8; line 7: label holds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("suffix", "content", "words"),
    [
        (".csv", b"text,label,text\nw5,good,w6\n", r"train\.csv: the column text stands twice in its header"),
        (".csv", b"text, text ,label\nw5,w6,good\n", r"train\.csv: the column text stands twice in its header"),
        (".tsv", b"text\tlabel\tlabel\nw5\tgood\tpoor\n", r"train\.tsv: the column label stands twice in its header"),
        (".jsonl", b'{"text": "w5", "label": "good", "label": "poor"}\n', r"'label' stands in it twice"),
        (".csv", b"", r"train\.csv has no content"),
        (".csv", b"txet,label\nw5,good\n", r"has no column text; its columns are txet, label\. Did you mean 'txet'\?"),
        (".jsonl", b'{" Text ": "w5", "label": "a"}\n', r"has no column text; .* Did you mean ' Text '\?"),
        (".xls", b"", r"task\.files: .*train\.xls ends in none of \.csv, \.tsv, \.jsonl, \.json, \.parquet, \.ndjson"),
        (".csv", "text,label\nw5,good\n".encode("utf-16"), r"are UTF-16, and UTF-8 is wanted"),
    ],
)
def test_a_table_is_checked_when_it_is_made_so_that_nothing_trains_before(suffix, content, words, table):
    with pytest.raises(ValueError, match=words):
        table(suffix, content, labels=["good", "poor"], on_bad_row="skip")


def test_an_edited_table_is_read_again(table):
    content = csv_file(["good", "poor"] * 12)
    before = spelt(table(".csv", content))
    after = spelt(table(".csv", content.replace(b"w3 w3,poor", b"w3 w3,good")))
    assert {text for text in TEXTS if before[text] != after[text]} == {"w3 w3"}


def test_a_folder_is_refused_as_a_table(tmp_path):
    with pytest.raises(ValueError, match=r"task\.files: .* is a folder, and a file is wanted"):
        classes(file=str(tmp_path), hub=None, label="label", format=None)


def test_blanks_around_a_name_in_a_header_are_no_part_of_it(table):
    content = csv_file(["good", "poor"] * 12).replace(b"text,label", b"\xef\xbb\xbf text , label ")
    assert len(spelt(table(".csv", content))) == 24
