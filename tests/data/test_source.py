"""A corpus of several files: each by its own suffix, and what is wrong in one said with its line."""

import bz2
import csv
import gzip
import io
import json
import lzma

import pandas
import pytest
from datasets import Dataset, DatasetInfo, Features, Value

from kd_lightning.data import source
from kd_lightning.data.formats import say
from kd_lightning.data.source import check, from_hub, locate, read, texts

LINES = ["one, two", 'a "quoted" word', "Füße", "42", "last one"]


def csv_bytes() -> bytes:
    return pandas.DataFrame({"id": range(5), "text": LINES}).to_csv(index=False).encode()


def jsonl_bytes() -> bytes:
    return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(LINES)).encode()


def parquet_bytes() -> bytes:
    made = io.BytesIO()
    pandas.DataFrame({"text": LINES}).to_parquet(made)
    return made.getvalue()


WRITTEN = {
    "a.txt": "\n".join(LINES).encode(),
    "b.jsonl": jsonl_bytes(),
    "c.ndjson": jsonl_bytes(),
    "d.jsonl.gz": gzip.compress(jsonl_bytes()),
    "e.json": json.dumps([{"text": text} for text in LINES]).encode(),
    "f.json": json.dumps([{"text": text} for text in LINES], indent=2).encode(),
    "g.json": jsonl_bytes(),
    "H.CSV": csv_bytes(),
    "i.csv.xz": lzma.compress(csv_bytes()),
    "j.tsv": "\n".join(["id\t text ", *(f"{i}\t{text}" for i, text in enumerate(LINES))]).encode(),
    "k.Txt.BZ2": bz2.compress("\n".join(LINES).encode()),
    "l.parquet": parquet_bytes(),
    "m.parquet.gz": gzip.compress(parquet_bytes()),
    "n.txt": "\r".join(LINES).encode(),
    "o.tsv": "\r\n".join(["text", *LINES]).encode("utf-8-sig"),
}


@pytest.fixture
def written(tmp_path):
    say.cache_clear()

    def make(**content: bytes) -> list[str]:  # a__txt is a.txt
        return [make_one(name.replace("__", "."), data) for name, data in content.items()]

    def make_one(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    make.one = make_one
    return make


@pytest.mark.parametrize("name", WRITTEN)
def test_each_format_gives_the_same_texts(name, written):
    assert list(texts(written.one(name, WRITTEN[name]))) == LINES


def test_files_of_many_formats_are_one_corpus(written, tmp_path):
    names = [written.one(name, data) for name, data in WRITTEN.items()]
    check(names)
    assert read(names, str(tmp_path))["text"][:] == LINES * len(WRITTEN)


def test_texts_are_written_a_block_at_a_time(written, tmp_path, monkeypatch):
    monkeypatch.setattr(source, "BLOCK", 30)
    names = [written.one(f"{i}.txt", WRITTEN["a.txt"]) for i in range(3)]
    assert read(names, str(tmp_path))["text"][:] == LINES * 3


def test_a_further_column_in_one_file_is_no_fault(written, tmp_path):
    names = written(a__jsonl=b'{"text": "w5"}\n', b__jsonl=b'{"text": "w6", "url": "u"}\n')
    assert read(names, str(tmp_path))["text"][:] == ["w5", "w6"]


def test_rows_without_a_text_are_counted_and_end_a_document(written, capsys):
    (name,) = written(a__jsonl=b'{"text": "w5"}\n{"text": null}\n{"text": NaN}\n{"text": ""}\n{"text": "w6"}\n')
    assert list(texts(name)) == ["w5", "", "", "", "w6"]
    assert "a.jsonl: 2 rows have no text and are left out." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"plain\ncaf\xe9\n", r"a\.txt, line 2: the byte 0xe9 is not UTF-8\..* iconv -f latin1 -t utf-8"),
        ("a.txt", "w5\n".encode("utf-16"), r"a\.txt, line 1: .* UTF-16"),
        ("a.jsonl", b'{"text": "w5"}\n{"text": "w6\n', r"a\.jsonl, line 2: not JSON \(Unterminated string"),
        ("a.jsonl", b'{"text": "w5"}\n[1]\n', r"a\.jsonl, line 2: not a JSON object"),
        ("a.jsonl", b'{"text": "w5"}\n{"text": ["w6"]}\n', r"a\.jsonl, line 2: text is \['w6'\], not a text"),
        ("a.jsonl", b'{"text": "w5"}\n{"text": "caf\xe9"}\n', r"a\.jsonl, line 2: the byte 0xe9 is not UTF-8"),
        ("a.jsonl", b'{"text": "w5", "text": "w6"}\n', r"a\.jsonl, line 1: 'text' stands in it twice"),
        ("a.jsonl", b"[" * 100_000 + b"\n", r"a\.jsonl, line 1: a JSON array and not an object"),
        (
            "a.jsonl",
            b'[\n {"text": "w5"}\n]\n',
            r"line 1: a JSON array .* let the name of a file that is one array end in \.json",
        ),
        (
            "a.json",
            b'[{"text": "w5"},\n {"text": "w6"\n',
            r"a\.json is no JSON array after row 1: not JSON \(.*: line 3, column 1",
        ),
        ("a.json", b'[{"text": "w5"},\n 3]\n', r"a\.json, row 2: not a JSON object"),
        ("a.csv", b'text\nw5\n"w6\nw7\n', r"a\.csv, line 3: a quote opens a field here and none closes it"),
        ("a.csv", b"text,id\nw5,1\nw6\n", r"a\.csv, line 3: 1 field for 2 columns"),
        ("a.csv", b"text,id,text\nw5,1,w6\n", r"a\.csv: the column text stands twice"),
        ("a.csv", b"Text,id\nw5,1\n", r"a column 'text' is wanted, and the columns are Text, id .*Did you mean 'Text'\?"),
        ("a.csv", b"caf\xe9,text\nw5,1\n", r"a\.csv, line 1, its header: the byte 0xe9 is not UTF-8"),
        ("a.txt.gz", b"not gzip", r"a\.txt\.gz ends in \.gz, and its content is not compressed so"),
        ("a.parquet", b"PAR1 and no more", r"a\.parquet is no Parquet file"),
        ("a.md", b"w5\n", r"a\.md ends in none of \.txt, \.csv, \.tsv, \.jsonl, \.json, \.parquet, \.ndjson"),
        ("a", b"w5\n", r"ends in none of \.txt"),
    ],
)
def test_what_is_wrong_with_one_file_of_several_is_said_with_its_line(name, content, words, written):
    good = written.one("good.txt", b"w5\n")
    with pytest.raises(ValueError, match=words):
        check([good, written.one(name, content)])


def test_an_edited_file_is_read_again(written):
    name = written.one("a.txt", b"w5\n")
    check([name])
    written.one("a.txt", b"caf\xe9\n")
    with pytest.raises(ValueError, match="0xe9"):
        check([name])


def test_a_cache_that_is_a_file_is_refused(written):
    (name,) = written(a__txt=b"w5\n")
    with pytest.raises(ValueError, match=r"cache=.*a\.txt is a file, and a folder is wanted"):
        locate([name], name)


def test_a_folder_and_no_name_at_all_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is a folder, and files are wanted"):
        check([str(tmp_path)])
    with pytest.raises(ValueError, match=r"corpus=\[\]: name files"):
        check([])


@pytest.mark.parametrize(
    ("name", "hub"),
    [
        ("wikimedia/wikipedia:20231101.en", True),
        ("wikitext", True),
        ("wikitext:wikitext-103.v1", True),
        ("someone/texts-2.0", True),
        ("absent.txt", False),
        ("folder/absent.jsonl.gz", False),
        ("a/b/absent.log", False),
    ],
)
def test_a_name_of_the_hub_is_told_from_a_file_that_is_not_there(name, hub):
    assert from_hub([name]) == hub
    assert not from_hub([name, name])


def test_a_hub_that_cannot_be_reached_is_said_when_the_corpus_is_checked():
    with pytest.raises(
        ValueError, match=r"data\.source: someone/nothing is no file here, and as a data set of the hub it cannot"
    ):
        check(["someone/nothing"])


@pytest.mark.parametrize(
    ("features", "splits", "words"),
    [
        ({"body": Value("string")}, {"train": None}, "a column 'text' is wanted, and the columns are body"),
        ({"text": Value("string")}, {"test": None}, "someone/texts has no split train; it has test"),
        ({"text": Value("string")}, {"train": None}, None),
    ],
)
def test_what_the_hub_says_of_a_data_set_is_checked_before_it_is_loaded(features, splits, words, monkeypatch):
    """The hub's own builder is replaced by what it would say of the data set."""

    class Builder:
        info = DatasetInfo(features=Features(features))

    Builder.info.splits = splits
    asked = []
    monkeypatch.setattr(source, "load_dataset_builder", lambda *names, cache_dir: asked.append(names) or Builder)
    if words is None:
        check(["someone/texts:en"])
        assert asked == [("someone/texts", "en")]
    else:
        with pytest.raises(ValueError, match=words):
            check(["someone/texts"])


def test_a_data_set_of_the_hub_is_read_by_its_column(monkeypatch, tmp_path):
    def load(name, configuration, split, cache_dir):
        assert (name, configuration, split, cache_dir) == ("wikimedia/wikipedia", "20231101.en", "train", str(tmp_path))
        return Dataset.from_dict({"id": [1, 2], "text": ["w5", "w6"]})

    monkeypatch.setattr(source, "load_dataset", load)
    assert read(["wikimedia/wikipedia:20231101.en"], str(tmp_path))["text"][:] == ["w5", "w6"]


def test_a_cell_of_five_megabytes_is_read(written):
    text = "word " * 1_000_000
    made = io.StringIO()
    csv.writer(made).writerows([("id", "text"), (1, text), (2, "short")])
    assert list(texts(written.one("a.csv", made.getvalue().encode()))) == [text, "short"]
