"""A task of one's own: the same rows from every format, and every bad row with its place."""

import bz2
import gzip
import json
import lzma

import numpy as np
import pytest
from datasets import Dataset

from kd_lightning.data.rows import say
from kd_lightning.data.table import Table, classes

REVIEWS = [(f"w{i} w{i % 7}", ("good", "bad", "fair")[i % 3]) for i in range(30)]


@pytest.fixture
def table(tmp_path):
    """A Table over files of these contents: split -> (suffix, text)."""

    def make(files: dict[str, tuple[str, str | bytes]], **other) -> Table:
        named = {"validation": None}
        for split, (suffix, text) in files.items():
            named[split] = str(tmp_path / f"{split}{suffix}")
            (tmp_path / f"{split}{suffix}").write_bytes(text if isinstance(text, bytes) else text.encode())
        given = {"name": "table", "hub": None, "text": ["review"], "label": "stars", "labels": ["bad", "fair", "good"]}
        rest = {"validation_share": 0.2, "split_seed": 0, "on_bad_row": "error", "on_empty": "error", "format": None}
        return Table(files=named, **given | rest | other)

    say.cache_clear()
    return make


def csv_of(rows, header: str = "review,stars") -> str:
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


def pairs(rows: Dataset) -> set[tuple[str, int]]:
    return set(zip(rows["sentence1"], rows["label"], strict=True))


def written(suffix: str, path) -> None:
    """The reviews in a format, by that format's own writer where there is one."""
    reviews = Dataset.from_dict({"review": [r for r, _ in REVIEWS], "stars": [s for _, s in REVIEWS], "more": [1] * 30})
    if suffix == ".parquet":
        reviews.to_parquet(path)
    elif suffix == ".csv":
        reviews.to_csv(path, index=False)
    elif suffix == ".tsv":
        path.write_text("review\tstars\tmore\n" + "".join(f"{r}\t{s}\t1\n" for r, s in REVIEWS))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in reviews))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_every_format_gives_the_same_rows(suffix, tmp_path, table):
    written(suffix, tmp_path / f"train{suffix}")
    reader = table({"train": (suffix, (tmp_path / f"train{suffix}").read_bytes())})
    reader.files["validation"] = reader.files["train"]
    splits = reader.splits(unlabelled=False)
    assert pairs(splits["train"]) == {(review, ["bad", "fair", "good"].index(stars)) for review, stars in REVIEWS}
    assert classes(file=reader.files["train"], hub=None, label="stars", format=None) == ["bad", "fair", "good"]


def test_quoted_fields_of_a_csv_may_hold_commas_and_line_breaks_and_lines_are_still_counted(table):
    text = 'review,stars\n"w1, ""w2""\nw3",good\nw4,bad\nw5,awful\n'
    with pytest.raises(ValueError, match=r"train\.csv has 1 bad row \(line 5: stars is 'awful'; known are bad, fair, good\)"):
        table({"train": (".csv", text)}).splits(unlabelled=False)
    splits = table({"train": (".csv", text), "validation": (".csv", csv_of(REVIEWS))}, on_bad_row="skip").splits(False)
    assert splits["train"]["sentence1"][:] == ['w1, "w2"\nw3', "w4"]


BAD = {
    ".csv": (
        b'review,stars\nw1,good\n,bad\nw2\nw3,bad,more\n"w4"w5,bad\nw6,\nw7,awful\n\nw8 \xff,bad\nw9,fair\n',
        [
            "line 3: review is empty",
            "line 4: 1 field for 2 columns",
            "line 5: 3 fields for 2 columns",
            "line 6: ',' expected after '\"'",
            "line 7: stars is missing",
            "line 8: stars is 'awful'; known are bad, fair, good",
            "line 10: review holds bytes that are not UTF-8",
        ],
    ),
    ".jsonl": (
        b'{"review": "w1", "stars": "good"}\n{"stars": "bad"}\n[1]\n{"review": 5, "stars": "bad"}\n{"review"\n'
        b'{"review": null, "stars": "bad"}\n{"review": "w2 \xff", "stars": "bad"}\n{"review": "w9", "stars": "fair"}\n',
        [
            "line 2: review is missing",
            "line 3: not a JSON object",
            "line 4: review is 5, not a text",
            "line 5: not JSON (Expecting ':' delimiter: column 10)",
            "line 6: review is missing",
            "line 7: review holds bytes that are not UTF-8",
        ],
    ),
}


@pytest.mark.parametrize("suffix", BAD)
def test_every_bad_row_is_refused_with_its_line_or_left_out_and_counted(suffix, table, capsys, monkeypatch):
    monkeypatch.setattr("kd_lightning.data.rows.SHOWN", 100)
    text, faults = BAD[suffix]
    files = {"train": (suffix, text), "validation": (".csv", csv_of(REVIEWS))}
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        table(files).splits(unlabelled=False)
    listed = f"train{suffix} has {len(faults)} bad rows ({'; '.join(faults)}). Correct them, or leave them out with "
    assert listed + "task.on_bad_row=skip." in str(refused.value)
    assert pairs(table(files, on_bad_row="skip").splits(unlabelled=False)["train"]) == {("w1", 2), ("w9", 1)}
    assert f"train{suffix}: {len(faults)} bad rows left out ({'; '.join(faults)})." in capsys.readouterr().out


def test_only_the_first_few_of_many_bad_rows_are_listed(table):
    text = csv_of([("w1", "good"), *[("w2", "awful")] * 1200])
    with pytest.raises(
        ValueError, match=r"has 1,200 bad rows \((line \d+: [^;]*; known[^;]*; ){4}line 7: [^;]*; [^;]* \.\.\.\)"
    ):
        table({"train": (".csv", text)}).splits(unlabelled=False)


def test_a_score_that_is_no_number_is_a_bad_row(table):
    text = csv_of([("w1", 1.5), ("w2", "much"), ("w3", "nan"), ("w4", -2)])
    with pytest.raises(ValueError, match=r"2 bad rows \(line 3: stars is 'much', not a number; line 4: stars is 'nan', not"):
        table({"train": (".csv", text)}, labels=["score"]).splits(unlabelled=False)


@pytest.mark.parametrize(
    ("files", "other", "words"),
    [
        ({"train": (".csv", csv_of(REVIEWS))}, {"text": ["body"]}, r"has no column body; its columns are review, stars\."),
        ({"train": (".csv", csv_of(REVIEWS))}, {"label": "rank"}, r"has no column rank; its columns are review, stars\."),
        ({"train": (".xls", "")}, {}, r"train\.xls ends in none of \.csv, \.tsv, \.jsonl, \.json, \.parquet"),
        ({"train": (".parquet", "w1")}, {}, r"train\.parquet is no Parquet file"),
        ({"train": (".csv", "review,stars\n")}, {}, r"train\.csv has no rows\."),
        ({"train": (".csv", csv_of(REVIEWS[:3]))}, {}, r"train\.csv: 3 rows are too few to hold some out"),
        ({"train": (".csv", csv_of(REVIEWS))}, {"on_bad_row": "ignore"}, r"on_bad_row=ignore: choose error or skip"),
        ({}, {}, r"task table: name your rows, e\.g\. task\.files\.train=mine\.csv"),
        ({"train": (".csv", "")}, {"text": []}, r"task\.text=\[\]: name one column, or two for pairs"),
        ({"train": (".csv", "")}, {"validation_share": 1.5}, r"task\.validation_share=1\.5: choose a share between 0 and 1"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(files, other, words, table):
    with pytest.raises(ValueError, match=words):
        table(files, **other).splits(unlabelled=False)


def test_a_share_of_every_class_is_held_out_and_no_text_is_on_both_sides(table, capsys):
    """40 good, 20 bad and 10 fair texts, each text twice."""
    rows = [(f"w{i}", "good" if i < 40 else "bad" if i < 60 else "fair") for i in range(70)] * 2
    files = {"train": (".csv", csv_of(rows))}
    splits = table(files).splits(unlabelled=False)
    assert np.bincount(splits["validation"]["label"][:]).tolist() == [8, 4, 16]
    assert np.bincount(splits["train"]["label"][:]).tolist() == [32, 16, 64]
    assert not pairs(splits["train"]) & pairs(splits["validation"])
    assert pairs(table(files).splits(unlabelled=False)["validation"]) == pairs(splits["validation"])
    assert pairs(table(files, split_seed=1).splits(unlabelled=False)["validation"]) != pairs(splits["validation"])
    said = capsys.readouterr().out
    assert "table: 140 labelled rows (good: 80, bad: 40, fair: 20; always saying good is right 57.1% of the time)." in said
    assert "table: 28 of these rows are held out for validation." in said


def test_a_class_of_a_few_rows_may_be_a_slip_and_is_said(table, capsys):
    rows, labels = [*REVIEWS, *[(f"w{i}", "godo") for i in range(4)]], ["bad", "fair", "godo", "good"]
    table({"train": (".csv", csv_of(rows))}, labels=labels).splits(unlabelled=False)
    assert "table: few rows are godo (4). If these are slips, name the classes: task.labels=[...]." in capsys.readouterr().out
    table({"train": (".csv", csv_of([*rows, ("w80", "godo")]))}, labels=labels).splits(unlabelled=False)
    assert "few rows" not in capsys.readouterr().out


def test_an_unlabelled_file_is_checked_by_the_first_stage_of_a_chain_which_does_not_train_on_it(table):
    files = {"train": (".csv", csv_of(REVIEWS)), "unlabelled": (".csv", "review\nw1\nw2,w3\n")}
    with pytest.raises(ValueError, match=r"unlabelled\.csv has 1 bad row \(line 3: 2 fields for 1 column\)"):
        table(files).splits(unlabelled=False)


def test_texts_on_both_sides_are_reported(table, capsys):
    files = {"train": (".csv", csv_of(REVIEWS)), "validation": (".csv", csv_of([REVIEWS[3], ("w80", "bad")]))}
    splits = table(files).splits(unlabelled=False)
    assert (len(splits["train"]), len(splits["validation"])) == (30, 2)
    assert "table: 1 text of validation also in train, so its figures flatter." in capsys.readouterr().out


def test_pairs_unlabelled_rows_and_further_splits_are_read(table):
    rows = csv_of([("w1", "w2", 0.5), ("w3", "w4", 2), ("w5", "w6", 3)] * 4, "question,answer,stars")
    more = csv_of([("w7", "w8")], "question,answer")
    files = {"train": (".csv", rows), "validation": (".csv", rows), "paris": (".csv", rows), "unlabelled": (".csv", more)}
    reader = table(files, text=["question", "answer"], labels=["score"])
    assert set(reader.splits(unlabelled=False)) == {"train", "validation", "paris"}
    splits = reader.splits(unlabelled=True)
    assert splits["train"][1] == {"sentence1": "w3", "sentence2": "w4", "label": 2.0}
    assert np.isnan(splits["unlabelled"]["label"][0])
    assert splits["unlabelled"]["sentence2"][:] == ["w8"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (REVIEWS, r"has no row with a rank; its columns are review, stars"),
        ([("w1", "w2", "x")] * 5, r"every row has the rank 'x', so there is nothing to learn"),
        (
            [("w1", "w2", i) for i in range(2000)],
            r"rank has 2,000 different values in 2,000 rows\. If they are scores.*regression",
        ),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(rows, words, tmp_path):
    (tmp_path / "t.csv").write_text(csv_of(rows, "review,stars,rank" if len(rows[0]) == 3 else "review,stars"))
    with pytest.raises(ValueError, match=words):
        classes(file=str(tmp_path / "t.csv"), hub=None, label="rank", format=None)


@pytest.mark.parametrize("ending", [".txt", ".txt.gz", ".txt.xz", ".tsv.bz2"])
def test_a_file_of_tab_separated_columns_may_have_any_name_where_its_format_is_said(ending, tmp_path, table):
    """As NSMC's ratings_train.txt, whose quotation marks are text."""
    packed = {".gz": gzip.compress, ".xz": lzma.compress, "bz2": bz2.compress, "txt": bytes}[ending[-3:]]
    text = 'id\tdocument\tlabel\n1\t"아 더빙..\t0\n2\t재밌다"\t1\n3\t굳 ㅋ\t1\n'
    files = {"train": (ending, packed(text.encode())), "validation": (ending, packed(text.encode()))}
    given = {"text": ["document"], "label": "label", "labels": ["0", "1"], "format": "tsv"}
    splits = table(files, **given).splits(unlabelled=False)
    assert pairs(splits["train"]) == {('"아 더빙..', 0), ('재밌다"', 1), ("굳 ㅋ", 1)}
    assert classes(file=str(tmp_path / f"train{ending}"), hub=None, label="label", format="tsv") == ["0", "1"]


NESTED = [
    {"a": {"text": f"w{n}", "label": n / 2}, "labels": {"label": n / 4, "real-label": n / 3, "binary": {"label": n % 2}}}
    for n in range(12)
]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_dots_lead_into_objects_in_every_format_that_has_them(suffix, tmp_path, table):
    path = tmp_path / f"train{suffix}"
    if suffix == ".parquet":
        Dataset.from_list(NESTED).to_parquet(path)
    else:
        path.write_text(json.dumps(NESTED, indent=4) if suffix == ".json" else "\n".join(map(json.dumps, NESTED)))
    files, kind = {"train": (suffix, path.read_bytes())}, {"text": ["a.text"], "labels": ["score"]}
    found = table(files, label="labels.label", **kind).splits(unlabelled=False)
    assert pairs(found["train"]) | pairs(found["validation"]) == {(f"w{n}", n / 4) for n in range(12)}
    assert classes(file=str(path), hub=None, label="labels.binary.label", format=None) == ["0", "1"]
    inside = r"its columns are a\.text, a\.label, labels\.label, labels\.real-label, labels\.binary\.label\."
    for label in ("labels", "labels.binary", "labels.lable", "a.text.label"):
        with pytest.raises(ValueError, match=rf"has no column {label}; {inside}"):
            table(files, label=label, **kind)
        with pytest.raises(ValueError, match=rf"has no row with a {label}; {inside}"):
            classes(file=str(path), hub=None, label=label, format=None)


def test_a_column_whose_name_has_a_dot_comes_before_what_an_object_holds(table):
    rows = [{"review": f"w{n}", "labels.label": "good", "labels": {"label": "bad"}} for n in range(8)]
    files = {"train": (".jsonl", "\n".join(map(json.dumps, rows)))}
    assert set(table(files, label="labels.label").splits(unlabelled=False)["train"]["label"]) == {2}
    columns = csv_of([(f"w{n}", "bad") for n in range(8)], "review,labels.label")
    assert set(table({"train": (".csv", columns)}, label="labels.label").splits(unlabelled=False)["train"]["label"]) == {0}


EMPTY = [{"review": text, "stars": "good"} for text in ("w1", "", "w2", " \t", None, "w3", "w4")]


def test_rows_without_a_text_are_refused_with_the_first_and_what_to_do_or_counted_and_left_out_or_kept(table, capsys):
    files = {"train": (".jsonl", "\n".join(map(json.dumps, EMPTY))), "validation": (".csv", csv_of(REVIEWS))}
    alone = r"task\.on_empty=skip leaves out 3 rows without a text alone \(the first is line 2\)"
    with pytest.raises(ValueError, match=rf"3 bad rows \(line 2: review is empty; .*\. {alone}"):
        table(files)
    kept = table(files, on_empty="skip").splits(unlabelled=False)["train"]
    assert kept["sentence1"][:] == ["w1", "w2", "w3", "w4"]
    assert "train.jsonl: 3 rows without a text left out (the first is line 2)." in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"1 bad row \(line 5: review is missing\)"):
        table(files, on_empty="keep")
    some = files | {"train": (".jsonl", "\n".join(json.dumps(row) for row in EMPTY if row["review"] is not None))}
    assert table(some, on_empty="keep").splits(unlabelled=False)["train"]["sentence1"][:] == ["w1", "", "w2", " \t", "w3", "w4"]
    broken = files | {"train": (".jsonl", files["train"][1] + "\n{")}
    with pytest.raises(ValueError, match=r"1 bad row \(line 8: not JSON"):
        table(broken, on_empty="skip")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"on_empty": "ignore"}, r"task\.on_empty=ignore: choose error, skip or keep\."),
        ({"format": "excel"}, r"task\.format=excel: choose csv, tsv, "),
        ({"format": "json"}, r"train\.csv has 31 bad rows \(line 1: not JSON"),
        ({"format": "tsv", "hub": ["a/b"]}, r"task\.format=tsv: the rows come from the hub, and only files have a format"),
    ],
)
def test_how_rows_are_read_is_refused_in_a_sentence_where_it_cannot_be_so(other, words, table):
    with pytest.raises(ValueError, match=words):
        table({"train": (".csv", csv_of(REVIEWS))}, **other)
