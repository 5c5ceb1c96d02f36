"""The command that classifies, against plain transformers, one text at a time."""

import csv
import gzip
import json
import os
import sys
from types import SimpleNamespace

import pandas
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from pyarrow import parquet
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kd_lightning import predict
from kd_lightning.data.formats import FORMATS
from kd_lightning.data.labelled import LabelledText
from kd_lightning.encoder import classifier
from kd_lightning.method.finetune import FineTune
from kd_lightning.predict import Classifier, main
from kd_lightning.run.artifact import export, in_row_order

TEXTS = [" ".join(f"w{5 + (7 * row + 3 * word) % 80}" for word in range(1 + (5 * row) % 17)) for row in range(40)]
PAIRS = list(zip(TEXTS, reversed(TEXTS), strict=True))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, make_encoder, write_record):
    def make(labels=("no", "yes", "maybe"), text=("sentence",), headed=True):
        folder = tmp_path_factory.mktemp("artifact")
        encoder = make_encoder(labels=labels, layers=2)
        with torch.no_grad():  # answers that differ from text to text
            encoder.model.classifier.bias.zero_()
            encoder.model.classifier.weight.mul_(5).sub_(encoder.model.classifier.weight.mean(0))
        (encoder.model if headed else encoder.model.base_model).save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)
        write_record(folder, stage="task" if headed else "general", task={"text": list(text), "labels": list(labels)})
        return folder

    return make


@pytest.fixture(scope="module")
def single(artifact):
    return artifact()


@pytest.fixture
def command(monkeypatch, capfd):
    """What the command prints, in chunks of 16 rows and batches of 5."""
    monkeypatch.setattr(predict, "CHUNK", 16)
    monkeypatch.setattr(predict, "BATCH", 5)

    def call(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
        main()
        return capfd.readouterr().out

    return call


def expected(folder, texts) -> list[tuple[str, float]]:
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        parts = (text,) if isinstance(text, str) else text
        with torch.no_grad():
            logits = model(**tokenizer(*parts, return_tensors="pt", truncation=True, max_length=32)).logits[0]
        chosen = int(logits.argmax())
        share = logits.exp()[chosen] / logits.exp().sum() if len(logits) > 1 else logits[0]
        found.append((model.config.id2label[chosen], share.item()))
    return found


def answered(output: str) -> list[tuple[str, float]]:
    return [(row["label"], pytest.approx(float(row["probability"]), abs=2e-5)) for row in rows(output)]


def rows(output: str) -> list[dict[str, str]]:
    return list(csv.DictReader(output.splitlines(), delimiter="\t"))


def test_lines_are_classified_in_their_order_over_chunks_and_batches(single, command, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    output = command(single, tmp_path / "text.txt")
    assert answered(output) == expected(single, TEXTS)
    assert [row["row"] for row in rows(output)] == [str(number) for number in range(1, 41)]
    assert len({label for label, _ in expected(single, TEXTS)}) > 1


def test_an_empty_line_has_an_answer_too(single, command, tmp_path):
    (tmp_path / "text.txt").write_text("w7\n\nw9\n")
    assert answered(command(single, tmp_path / "text.txt")) == expected(single, ["w7", "", "w9"])


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_table_is_read_by_its_columns_and_keeps_its_ids(ending, single, command, tmp_path):
    file, ids = tmp_path / f"table.{ending}", [f"00{number}" for number in range(40)]
    if ending == "parquet":
        parquet.write_table(pa.table({"name": ids, "review": TEXTS}), file)
    elif ending in ("jsonl", "json"):
        lines = [json.dumps({"review": text, "name": name}) for name, text in zip(ids, TEXTS, strict=True)]
        file.write_text("\n".join(lines) + "\n")
    else:
        with file.open("w", newline="") as opened:
            writer = csv.writer(opened, delimiter={"csv": ",", "tsv": "\t"}[ending])
            writer.writerows([("name", "review"), *zip(ids, TEXTS, strict=True)])
    output = command(single, file, "--text", "review", "--id", "name")
    assert answered(output) == expected(single, TEXTS)
    assert [row["name"] for row in rows(output)] == ids


def test_a_quoted_field_of_a_csv_may_hold_commas_and_lines(single, command, tmp_path):
    (tmp_path / "table.csv").write_text('\ufeffsentence,other\n"w7, w8\nw9",1\nw50,2\n')
    assert answered(command(single, tmp_path / "table.csv")) == expected(single, ["w7, w8\nw9", "w50"])


def test_a_text_may_lie_in_an_object_and_a_file_may_be_of_any_format_that_is_said(single, command, tmp_path):
    (tmp_path / "a.txt").write_text(json.dumps([{"said": {"text": text}, "about": {"id": n}} for n, text in enumerate(TEXTS)]))
    output = command(single, tmp_path / "a.txt", "--format", "json", "--text", "said.text", "--id", "about.id")
    assert answered(output) == expected(single, TEXTS)
    assert [row["about.id"] for row in rows(output)] == [str(n) for n in range(40)]
    (tmp_path / "b.txt").write_text('sentence\tn\n"w7\t""w8"""\t1\nw9\t2\n')
    assert answered(command(single, tmp_path / "b.txt", "--format", "quoted_tsv")) == expected(single, ['w7\t"w8"', "w9"])


def test_pairs_are_read_from_lines_and_from_two_columns(artifact, command, tmp_path):
    folder = artifact(text=("premise", "hypothesis"))
    (tmp_path / "pairs.txt").write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS))
    (tmp_path / "pairs.csv").write_text("hypothesis,premise\n" + "".join(f"{b},{a}\n" for a, b in PAIRS))
    for name in ("pairs.txt", "pairs.csv"):
        assert answered(command(folder, tmp_path / name)) == expected(folder, PAIRS)


def test_a_regression_gives_a_score(artifact, command, tmp_path):
    folder = artifact(labels=("similarity",))
    (tmp_path / "text.txt").write_text("\n".join(TEXTS))
    output = command(folder, tmp_path / "text.txt", "--jsonl")
    found = [json.loads(line) for line in output.splitlines()]
    assert [row["score"] for row in found] == pytest.approx([score for _, score in expected(folder, TEXTS)], abs=2e-5)
    assert [row["row"] for row in found] == list(range(1, 41))


@pytest.fixture
def standard_input(tmp_path):
    """Put a text there."""
    kept = os.dup(0)

    def put(text: str, encoding: str = "utf-8") -> None:
        (tmp_path / "input").write_text(text, encoding=encoding)
        with (tmp_path / "input").open() as file:
            os.dup2(file.fileno(), 0)

    yield put
    os.dup2(kept, 0)
    os.close(kept)


def test_standard_input_is_lines_or_what_is_said(single, command, standard_input):
    standard_input("w7 w8\nw50\n")
    assert answered(command(single, "-")) == expected(single, ["w7 w8", "w50"])
    standard_input("sentence\nw7 w8\nw50\n")
    assert answered(command(single, "-", "--format", "csv")) == expected(single, ["w7 w8", "w50"])


def test_a_reader_that_has_gone_is_no_mistake(single, command, standard_input, capfd):
    standard_input("w7\n" * 100)
    reading, writing = os.pipe()
    os.close(reading)
    kept = os.dup(1)
    os.dup2(writing, 1)
    try:
        with pytest.raises(SystemExit) as left:
            command(single, "-")
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(writing)
    assert left.value.code == 1
    assert capfd.readouterr().err == ""


def test_no_more_than_a_chunk_is_read_ahead(single, command):
    """Thirty rows taken, two chunks: the second is asked for only after the first has been answered."""
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield f"line {len(taken)}", {"sentence": "w7"}

    answers = predict.predict(predict.Classifier(single), endless(), ["sentence"], None)
    assert len(next(answers)) == 16 == len(taken)
    assert [row["row"] for row in next(answers)] == list(range(17, 33))
    assert len(taken) == 32


def test_a_file_takes_its_place_once_it_is_whole(single, command, tmp_path):
    (tmp_path / "text.jsonl").write_text('{"sentence": "w7"}\n' * 20 + '{"sentence": 7\n')
    with pytest.raises(SystemExit, match=r"text.jsonl: line 21: not JSON"):
        command(single, tmp_path / "text.jsonl", "--out", tmp_path / "out.tsv")
    assert [path.name for path in tmp_path.iterdir()] == ["text.jsonl"]
    (tmp_path / "text.txt").write_text("w7\n")
    assert command(single, tmp_path / "text.txt", "--out", tmp_path / "out.tsv") == ""
    assert len(rows((tmp_path / "out.tsv").read_text())) == 1


@pytest.mark.parametrize(
    ("name", "content", "options", "sentence"),
    [
        ("a.csv", "text,n\nw7,1\n", (), "line 2 has nothing in column sentence; its columns are text, n"),
        ("a.csv", "sentence,n\nw7,1\nw8\n", ("--id", "n"), "line 3: 1 field for 2 columns"),
        ("a.csv", "sentence\nw7\n", ("--text", "a", "b"), "--text a b: this model reads 1"),
        ("a.csv", "sentence\n", (), "there are no rows in it"),
        ("a.txt", "", (), "there are no rows in it"),
        ("a.jsonl", "[1]\n", (), "line 1: not a JSON object"),
        ("a.txt", b"w7\n\xff\xfe\n", (), "line 2: sentence holds bytes that are not UTF-8"),
        ("a.parquet", "w7\n", (), "a.parquet is no Parquet file"),
    ],
)
def test_a_mistake_is_one_sentence(name, content, options, sentence, single, command, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit, match=sentence):
        command(single, tmp_path / name, *options)


def test_what_is_no_classifier_is_refused(artifact, command, tmp_path):
    with pytest.raises(SystemExit, match="no artifact is there"):
        command(tmp_path, "-")
    with pytest.raises(SystemExit, match=r"no head that classifies \(method tinybert, stage general\)"):
        command(artifact(headed=False), "-")
    with pytest.raises(SystemExit, match=r"No such file or directory: .*/none.txt"):
        command(artifact(), tmp_path / "none.txt")


def test_weights_that_are_not_finite_have_no_answers(artifact, command, tmp_path):
    folder = artifact()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    next(model.classifier.parameters()).data.fill_(float("nan"))
    model.save_pretrained(folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    (tmp_path / "a.txt").write_text("w7\n")
    with pytest.raises(SystemExit, match="answers are not finite"):
        command(folder, tmp_path / "a.txt", "--out", tmp_path / "out.tsv")
    assert not (tmp_path / "out.tsv").exists()


def test_a_line_without_a_tab_is_no_pair(artifact, command, tmp_path):
    (tmp_path / "a.txt").write_text("w7\tw8\nw9\n")
    with pytest.raises(SystemExit, match="line 2: no pair: a tab must stand between first and second"):
        command(artifact(text=("first", "second")), tmp_path / "a.txt")


@pytest.mark.parametrize("pairs", [False, True])
def test_a_classifier_answers_as_in_training_whatever_side_its_tokenizer_padded(
    pairs, tmp_path, make_encoder, engine, write_record
):
    """A folder whose tokenizer pads left is trained on, exported and read again."""
    encoder = make_encoder(labels=("no", "yes", "maybe"), layers=2)
    encoder.model.save_pretrained(tmp_path / "left")
    encoder.tokenizer.save_pretrained(tmp_path / "left")
    settings = json.loads((tmp_path / "left" / "tokenizer_config.json").read_text()) | {"padding_side": "left"}
    (tmp_path / "left" / "tokenizer_config.json").write_text(json.dumps(settings))
    distiller = FineTune(**engine(classifier(tmp_path / "left", ("no", "yes", "maybe")), None)).eval()
    rows = Dataset.from_dict(
        {"sentence1": TEXTS, **({"sentence2": TEXTS[::-1]} if pairs else {}), "label": [row % 3 for row in range(40)]}
    )
    reader = SimpleNamespace(labels=["no", "yes", "maybe"], splits=lambda _: {"train": rows, "validation": rows})
    options = {"batch_size": 8, "unlabelled": False, "augment": None, "label_budget": None, "label_seed": 0}
    data = LabelledText(tokenizer=distiller.student.tokenizer, reader=reader, max_length=16, workers=0, seed=0, **options)
    data.prepare_data()
    loader = data.val_dataloader()
    with torch.no_grad():
        trained = in_row_order((distiller.predict_step(batch, 0)["student"] for batch in loader), loader.dataset.plan, 40)
    folder = tmp_path / "artifact"
    export(distiller, folder, torch.float32)
    write_record(folder, task={"text": ["a", "b"] if pairs else ["a"], "max_length": 16})
    assert AutoTokenizer.from_pretrained(folder).padding_side == "right"
    texts = list(zip(TEXTS, TEXTS[::-1], strict=True)) if pairs else [(text,) for text in TEXTS]
    torch.testing.assert_close(Classifier(folder).logits(texts), trained, rtol=1e-4, atol=1e-5)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "left").eval()
    for text, shown in zip(texts[:10], trained, strict=False):
        tokens = encoder.tokenizer(*text, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            torch.testing.assert_close(plain(**tokens).logits[0], shown, rtol=1e-4, atol=1e-5)


IDS = [
    '5" nail',
    '"5" nail',
    "'",
    "=1+1",
    "+1",
    "-2",
    "@me",
    "007",
    "1.0",
    "",
    " blank ",
    "a,b",
    "Füße",
    "\u2028",
    'a""b',
    "\\t",
]
LINES = [*IDS, "a\tb", "a\nb", "a\r", "\r\n"]


def with_ids(path, ids) -> None:
    pandas.DataFrame({"code": ids, "sentence": TEXTS[: len(ids)]}).to_csv(path, index=False, quoting=csv.QUOTE_ALL)


def elsewhere(path) -> list[dict[str, str]]:
    """The rows of a file as other libraries read it: csv without quotes, pandas, json."""
    if path.suffix == ".tsv":
        with path.open(newline="\n", encoding="utf-8") as file:
            return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    if path.suffix == ".csv":
        return pandas.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize(("ending", "ids"), [(".tsv", IDS), (".csv", LINES), (".jsonl", LINES)])
def test_what_is_written_is_read_back_equal_here_and_elsewhere(ending, ids, single, command, tmp_path):
    with_ids(tmp_path / "ids.csv", ids)
    out = tmp_path / f"out{ending}"
    assert command(single, tmp_path / "ids.csv", "--id", "code", "--out", out) == ""
    ours = [row for _, row in FORMATS[ending](out)]
    theirs = elsewhere(out)
    assert [row["code"] for row in ours] == [row["code"] for row in theirs] == ids
    assert [row["label"] for row in ours] == [label for label, _ in expected(single, TEXTS[: len(ids)])]
    assert ours == theirs
    assert all(0 < float(row["probability"]) <= 1 for row in theirs)
    again = command(single, out, "--text", "code", "--id", "code", "--out", tmp_path / f"again{ending}")
    assert again == ""
    assert [row["code"] for _, row in FORMATS[ending](tmp_path / f"again{ending}")] == ids


@pytest.mark.parametrize("bad", ["a\tb", "a\nb", "a\r"])
def test_what_no_tsv_holds_is_refused_and_nothing_is_left(bad, single, command, tmp_path):
    with_ids(tmp_path / "ids.csv", ["fine", bad])
    with pytest.raises(
        SystemExit, match=r"ids\.csv: 'a.*has a tab or a line end in it, which no TSV holds\. Write --jsonl, or --out"
    ):
        command(single, tmp_path / "ids.csv", "--id", "code", "--out", tmp_path / "out.tsv")
    assert [path.name for path in tmp_path.iterdir()] == ["ids.csv"]


def test_numbers_stay_numbers(artifact, command, tmp_path):
    folder = artifact(labels=("score",))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.classifier.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    model.classifier.bias.data.fill_(-20)
    model.save_pretrained(folder)
    (tmp_path / "a.txt").write_text("\n".join(TEXTS))
    command(folder, tmp_path / "a.txt", "--out", tmp_path / "a.csv")
    found = pandas.read_csv(tmp_path / "a.csv")
    assert found["score"].dtype == "float64"
    assert found["score"].min() < 0
    assert found["score"].tolist() == pytest.approx([score for _, score in expected(folder, TEXTS)], abs=2e-5)


def test_ids_of_any_type_are_written(single, command, tmp_path):
    days = pandas.date_range("2020-01-01", periods=3)
    pandas.DataFrame({"day": days, "sentence": TEXTS[:3]}).to_parquet(tmp_path / "a.parquet")
    for options in ((), ("--jsonl",)):
        output = command(single, tmp_path / "a.parquet", "--id", "day", *options)
        assert all(f"2020-01-0{number}" in output for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.CSV", b"sentence,n\nw7,1\n"),
        ("a.tsv.gz", gzip.compress(b"sentence\tn\nw7\t1\n", mtime=0)),
        ("a.ndjson", b'{"sentence": "w7"}\n'),
        ("a.json", b'[\n {"sentence": "w7"}\n]\n'),
        ("a.TXT", b"\xef\xbb\xbfw7\n"),
        ("a.txt.gz", gzip.compress(b"w7\n", mtime=0)),
        ("a", b"w7\n"),
        ("a.csv", b" sentence ,n\r\nw7,1\r\n"),
    ],
)
def test_a_file_is_read_by_its_suffix(name, content, single, command, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert answered(command(single, tmp_path / name)) == expected(single, ["w7"])


@pytest.mark.parametrize(
    ("name", "content", "options", "sentence"),
    [
        ("a.xlsx", b"PK\x03\x04", (), r"a\.xlsx ends in none of \.txt, \.csv, \.tsv"),
        ("a.csv", b"PK\x03\x04", (), r"predict: [^ ]*a\.csv is a zip file or a spreadsheet"),
        ("a.csv", b"sentense,n\nw7,1\n", (), r"its columns are sentense, n\. Did you mean 'sentense'\?"),
        ("a.csv", b"sentence,n,n\nw7,1,2\n", (), r"the column n stands twice"),
        ("a.csv", b"sentence,label\nw7,1\n", ("--id", "label"), r"--id label: the answers have a column of this name"),
        ("a.txt", b"w7\n", ("--out", "a.parquet"), r"--out a\.parquet: written are \.tsv, \.csv, \.jsonl"),
        ("a.txt", b"w7\n", ("--jsonl", "--out", "a.csv"), r"--jsonl --out a\.csv: these name two formats"),
        ("a.jsonl", b'{"sentence": NaN}\n', (), r"line 1 has nothing in column sentence"),
        ("a.txt", b"caf\xe9\n", (), r"line 1: sentence holds bytes that are not UTF-8: the byte 0xe9 .* iconv -f latin1"),
        ("a.txt", "w7\n".encode("utf-16"), (), r"are UTF-16, and UTF-8 is wanted"),
    ],
)
def test_a_file_that_is_something_else_is_one_sentence(name, content, options, sentence, single, command, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit, match=sentence):
        command(single, tmp_path / name, *options)


def test_help_says_how_the_answers_are_written(command, capfd):
    with pytest.raises(SystemExit):
        command("--help")
    said = " ".join(capfd.readouterr().out.split())
    assert "nothing is ever quoted: read it with csv.QUOTE_NONE" in said
    assert "those that begin with = + - @ too" in said
