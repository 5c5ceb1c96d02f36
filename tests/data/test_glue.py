"""From tab-separated files to batches, and every refusal on the way."""

import json

import pytest
import torch
from datasets import Dataset, DatasetDict, concatenate_datasets

from kd_lightning.data.glue import Glue
from kd_lightning.data.labelled import LabelledText
from kd_lightning.data.rows import say

SENTENCES = [f"w{10 + i} w20 w30" + " w40" * (i % 5) for i in range(22)]


@pytest.fixture
def task(tmp_path, tokenizer):
    """A task over files written to a folder: split -> text of its file."""

    def make(texts: dict[str, str], **other) -> LabelledText:
        folder = tmp_path / "glue" / "Task"
        folder.mkdir(parents=True, exist_ok=True)
        for split, text in texts.items():
            (folder / f"{split}.tsv").write_text(text, encoding="utf-8", newline="\n")
        reader = {
            "name": "demo",
            "root": str(tmp_path / "glue"),
            "folder": "Task",
            "hub": None,
            "hub_revision": None,
            "hub_text": ["sentence"],
            "hub_label": "label",
            "hub_splits": {},
            "files": {name: f"{name}.tsv" for name in ("train", "validation", "test", "unlabelled")},
            "columns": None,
            "text": ["sentence"],
            "label": "label",
            "labels": ["bad", "good"],
            "values": None,
            "rows": {},
            "format": "tsv",
            "validation_share": 0.1,
            "split_seed": 0,
            "on_bad_row": "error",
            "on_empty": "keep",
        }
        module = {"max_length": 32, "batch_size": 4, "unlabelled": False, "augment": None, "workers": 0, "seed": 1}
        module |= {"label_budget": None, "label_seed": 0}
        given = {name: other.get(name, value) for name, value in reader.items()}
        return LabelledText(
            tokenizer=tokenizer, reader=Glue(**given), **{name: other.get(name, value) for name, value in module.items()}
        )

    say.cache_clear()
    return make


def table(rows: list[tuple], header: str | None = "sentence\tlabel") -> str:
    lines = ["\t".join(str(field) for field in row) for row in rows]
    return "\n".join([*([header] if header else []), *lines]) + "\n"


def labelled(count: int = 22, values: tuple = ("bad", "good")) -> str:
    return table([(SENTENCES[i], values[i % len(values)]) for i in range(count)])


def both(**other) -> dict[str, str]:
    return {"train": labelled(), "validation": labelled(9)} | other


def examples(loader) -> dict[tuple, float]:
    """Tokens without padding -> label."""
    found = {}
    for batch in loader:
        for ids, mask, label in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            found[tuple(ids[mask.bool()].tolist())] = label.item()
    return found


def test_every_row_becomes_one_example_with_its_label(task, tokenizer):
    data = task(both())
    data.prepare_data()
    expected = {tuple(tokenizer(text).input_ids): i % 2 for i, text in enumerate(SENTENCES)}
    assert examples(data.train_dataloader()) == expected
    assert len(examples(data.val_dataloader())) == 9
    assert not data.evaluations()


def test_a_batch_is_padded_to_its_longest_and_typed(task, tokenizer):
    data = task(both())
    data.prepare_data()
    batches = list(data.train_dataloader())
    assert len(batches) == 6
    for batch in batches:
        lengths = batch["attention_mask"].sum(1)
        assert {name: tensor.dtype for name, tensor in batch.items()} == dict.fromkeys(batch, torch.int64)
        assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels", "index", "real", "labelled"}
        assert batch["real"].tolist() == [i for i, seen in enumerate(batch["attention_mask"].flatten().tolist()) if seen]
        assert batch["labelled"].tolist() == list(range(len(lengths)))
        assert batch["input_ids"].shape == (len(lengths), int(lengths.max()))
        assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()


def test_files_may_write_classes_as_they_like(task):
    data = task({"train": labelled(values=("1", "0")), "validation": labelled(4, ("0", "1"))}, values=["0", "1"])
    data.prepare_data()
    assert data.splits["train"]["label"][:4] == [1, 0, 1, 0]
    assert data.splits["validation"]["label"] == [0, 1, 0, 1]


def test_a_file_may_have_no_header_and_columns_that_do_not_matter(task):
    rows = table([("gj04", i % 2, "*", SENTENCES[i]) for i in range(8)], header=None)
    columns = ["source", "label", "star", "sentence"]
    data = task({"train": rows, "validation": rows}, columns=columns, values=["0", "1"])
    data.prepare_data()
    assert data.splits["train"]["label"] == [0, 1] * 4
    assert len(data.splits["train"]) == 8


def test_pairs_are_read_as_two_segments_and_truncated_together(task, tokenizer):
    rows = table([("w10 w11", "w12 " * 40, "bad"), ("w13", "w14", "good")], header="a\tb\tlabel")
    data = task({"train": rows, "validation": rows}, text=["a", "b"], max_length=16)
    data.prepare_data()
    (batch,) = data.val_dataloader()
    assert batch["attention_mask"].sum(1).tolist() == [5, 16]
    assert batch["input_ids"].tolist() == [
        [2, 13, 3, 14, 3] + [0] * 11,
        [2, 10, 11, 3] + [12] * 11 + [3],
    ]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1] + [0] * 11, [0] * 4 + [1] * 12]
    assert batch["labels"].tolist() == [1, 0]


def test_quotation_marks_and_blanks_are_text(task, tokenizer):
    rows = table([('"w10 w11', "bad"), ("w12 'w13\"", "good")])
    data = task({"train": rows, "validation": rows})
    data.prepare_data()
    assert len(data.splits["train"]) == 2
    windows = task({"train": rows.replace("\n", "\r\n"), "validation": rows})
    windows.prepare_data()
    assert windows.splits["train"]["input_ids"] == data.splits["train"]["input_ids"]
    assert windows.splits["train"]["label"] == [0, 1]


def test_a_regression_has_scores(task):
    rows = table([(SENTENCES[i], i / 4) for i in range(8)])
    data = task({"train": rows, "validation": rows}, labels=["similarity"])
    data.prepare_data()
    found = examples(data.val_dataloader())
    assert sorted(found.values()) == [i / 4 for i in range(8)]
    assert next(iter(data.val_dataloader()))["labels"].dtype == torch.float32


@pytest.mark.parametrize("regression", [False, True])
def test_unlabelled_rows_are_trained_on_only_when_asked_for(regression, task):
    kind = {"labels": ["similarity"]} if regression else {}
    rows = table([(SENTENCES[i], 0.5 if regression else "bad") for i in range(6)])
    more = table([(f"w50 w{60 + i}",) for i in range(5)], header="sentence")
    files = {"train": rows, "validation": rows, "unlabelled": more}
    without = task(files, **kind)
    without.prepare_data()
    assert len(examples(without.train_dataloader())) == 6
    data = task(files, unlabelled=True, **kind)
    data.prepare_data()
    labels = torch.cat([batch["labels"] for batch in data.train_dataloader()])
    assert len(labels) == 11
    assert int((labels.isnan() if regression else labels == -100).sum()) == 5
    assert len(examples(data.val_dataloader())) == 6


def test_training_rows_alone_are_augmented_before_they_are_tokenised(task, tokenizer):
    def twice(rows):
        return concatenate_datasets([rows, rows.map(lambda row: {"sentence1": row["sentence1"] + " w90"})])

    more = table([("w50",)], header="sentence")
    data = task(both(unlabelled=more, test=labelled(5)), augment=twice, unlabelled=True)
    data.prepare_data()
    texts = SENTENCES + [f"{text} w90" for text in SENTENCES]
    assert data.splits["train"]["input_ids"] == [tokenizer(text).input_ids for text in texts]
    assert data.splits["train"]["label"] == [0, 1] * 22
    assert [len(data.splits[split]) for split in ("validation", "test", "unlabelled")] == [9, 5, 1]


@pytest.mark.parametrize("present", [("train", "validation"), ("train", "validation", "test")])
def test_wanting_unlabelled_rows_wants_no_other_file(present, task):
    """A task that names no such file has none, and a test file stays optional."""
    data = task(both(), unlabelled=True, files={name: f"{name}.tsv" for name in present})
    data.prepare_data()
    assert len(examples(data.train_dataloader())) == 22
    assert not data.evaluations()


def test_a_test_split_counts_only_where_it_has_labels(task):
    data = task(both(test=labelled(5)))
    data.prepare_data()
    assert len(examples(data.evaluations()["test"])) == 5
    withheld = task(both(test=table([(0, SENTENCES[0])], header="index\tsentence")))
    withheld.prepare_data()
    assert not withheld.evaluations()


def test_a_test_file_that_is_not_there_is_said_once_and_one_without_labels_is_as_usual(task, tmp_path, capsys):
    reader, file = task(both()).reader, tmp_path / "glue" / "Task" / "test.tsv"
    for _ in range(2):
        assert set(reader.splits(unlabelled=False)) == {"train", "validation"}
    assert capsys.readouterr().out == f"task demo: {file} cannot be found. So nothing is measured on test.\n"
    task(both(test=table([(0, SENTENCES[0])], header="index\tsentence"))).reader.splits(unlabelled=False)
    assert capsys.readouterr().out == ""


def test_epochs_come_in_different_orders_and_validation_in_one(task, process):
    data = task(both())
    data.prepare_data()

    data.trainer = process()

    def order(loader) -> list[int]:
        return [ids for batch in loader for ids in batch["input_ids"][:, 1].tolist()]

    first = order(data.train_dataloader())
    assert order(data.train_dataloader()) == first
    data.trainer = process(epoch=1)
    assert order(data.train_dataloader()) != first
    assert sorted(order(data.train_dataloader())) == sorted(first)
    assert order(data.val_dataloader()) == order(data.val_dataloader())


@pytest.mark.parametrize(
    ("files", "other", "words"),
    [
        ({}, {"max_length": 65}, r"task\.max_length=65: this model reads 64 tokens at most"),
        ({}, {"root": None}, r"task demo: give task\.root=<folder> or task\.hub=\[data set, configuration\]"),
        ({}, {}, r"task demo: .*train\.tsv cannot be found"),
        ({"train": labelled()}, {}, r"task demo: .*validation\.tsv cannot be found"),
        (both(), {"unlabelled": True}, r"task demo: .*unlabelled\.tsv cannot be found"),
        (
            both(train=table([("w5", "bad")], header="text\tlabel")),
            {},
            r"train\.tsv has no column sentence; its columns are text, label",
        ),
        (
            both(train=table([("w5", "bad")], header="text\tclass")),
            {},
            r"train\.tsv has no column sentence and label; its columns are text, class",
        ),
        (both(train="sentence\tlabel\nw5\tbad\nw6\n"), {}, r"train\.tsv has 1 bad row \(line 3: 1 field for 2 columns\)"),
        (both(validation="sentence\tlabel\n"), {}, r"validation\.tsv has no rows"),
        (
            both(train=labelled(values=("bad", "fine"))),
            {},
            r"train\.tsv has 11 bad rows \(line 3: label is 'fine'; known are bad, good; line 5",
        ),
        (
            both(train=labelled(values=("1.5", "much"))),
            {"labels": ["score"]},
            r"train\.tsv has 11 bad rows \(line 3: label is 'much', not a number",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(files, other, words, task):
    with pytest.raises(ValueError, match=words):
        task(files, **other).prepare_data()


def test_an_empty_file_is_refused(task):
    with pytest.raises(ValueError, match=r"train\.tsv has no"):
        task(both(train="")).prepare_data()


class TestFromTheHub:
    """The hub's own loader is replaced by the data set it would return; nothing of ours is."""

    @pytest.fixture(autouse=True)
    def offline(self, monkeypatch):
        from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

        classes = ClassLabel(names=["bad", "good"])
        features = Features({"sentence": Value("string"), "label": classes})

        def split(labels: list[int]) -> Dataset:
            rows = {"sentence": SENTENCES[: len(labels)], "label": labels}
            return Dataset.from_dict(rows, features=features)

        def load(name, configuration, revision):
            assert (name, configuration) == ("nyu-mll/glue", "sst2")
            return DatasetDict(train=split([0, 1] * 6), validation=split([1, 0, 1]), test=split([-1] * 4))

        monkeypatch.setattr("kd_lightning.data.glue.load_dataset", load)

    def test_its_splits_and_classes_are_read(self, task):
        data = task({}, root=None, hub=["nyu-mll/glue", "sst2"])
        data.prepare_data()
        assert data.splits["train"]["label"] == [0, 1] * 6
        assert data.splits["validation"]["label"] == [1, 0, 1]
        assert not data.evaluations()

    def test_its_classes_may_come_in_another_order(self, task):
        data = task({}, root=None, hub=["nyu-mll/glue", "sst2"], labels=["good", "bad"], values=["1", "0"])
        data.prepare_data()
        assert data.splits["validation"]["label"] == [0, 1, 0]

    def test_other_classes_are_refused(self, task):
        data = task({}, root=None, hub=["nyu-mll/glue", "sst2"], labels=["bad", "fine"])
        with pytest.raises(ValueError, match=r"task demo: train of .*good.*; known are bad, fine"):
            data.prepare_data()


class TestFromACopyOfTheHub:
    """Two forms of it: the hub's own Parquet files, and what save_to_disk leaves."""

    @pytest.fixture(params=["parquet", "save_to_disk"])
    def copied(self, request, tmp_path):
        from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

        features = Features({"premise": Value("string"), "label": ClassLabel(names=["good", "bad"]), "idx": Value("int32")})

        def split(labels: list[int]) -> Dataset:
            rows = {"premise": SENTENCES[: len(labels)], "label": labels, "idx": list(range(len(labels)))}
            return Dataset.from_dict(rows, features=features)

        data = DatasetDict(
            train=split([0, 1, 1]), validation_matched=split([1, 0]), validation_mismatched=split([1] * 4), test=split([-1] * 3)
        )
        if request.param == "save_to_disk":
            data.save_to_disk(tmp_path / "glue" / "demo")
        else:
            (tmp_path / "glue" / "demo").mkdir(parents=True)
            for name, rows in data.items():
                rows.to_parquet(tmp_path / "glue" / "demo" / f"{name}-00000-of-00001.parquet")

    def test_columns_splits_and_classes_go_by_name(self, copied, task):
        hub = {"hub": ["nyu-mll/glue", "demo"], "hub_text": ["premise"], "folder": "DEMO"}
        names = {"validation": "validation_matched", "mismatched": "validation_mismatched"}
        files = dict.fromkeys(("train", "validation", "mismatched", "test"), "absent.tsv")
        data = task({}, **hub, hub_splits=names, files=files)
        data.prepare_data()
        assert {name: split["label"][:] for name, split in data.splits.items()} == {
            "train": [1, 0, 0],
            "validation": [0, 1],
            "mismatched": [0] * 4,
        }
        assert len(data.reader.read("test", labelled=False)) == 3

    def test_a_split_that_is_not_there_is_refused(self, copied, task):
        data = task({}, hub=["nyu-mll/glue", "demo"], hub_text=["premise"], folder="DEMO")
        with pytest.raises(ValueError, match=r"task demo: .*demo has no split validation"):
            data.prepare_data()


def test_malformed_lines_are_left_out_and_counted_where_the_benchmark_has_some(task, capsys):
    train = "sentence\tlabel\nw5\tbad\nw6\nw7\tw8\nw9\tgood\n"
    data = task({"train": train, "validation": labelled(4), "test": labelled(4)}, on_bad_row="skip")
    data.prepare_data()
    assert data.splits["train"]["label"][:] == [0, 1]
    (said,) = capsys.readouterr().out.splitlines()
    assert "train.tsv: 2 bad rows left out (line 3: 1 field for 2 columns; line 4: label is 'w8'; known" in said


def test_stray_tabs_after_the_last_column_are_ignored(task):
    data = task({"train": "sentence\tlabel\nw5\tbad\tmore\t\nw6\tgood\n", "validation": labelled(4)})
    data.prepare_data()
    assert data.splits["train"]["label"][:] == [0, 1]


def test_bytes_that_are_not_utf8_are_refused_with_their_line_and_a_byte_order_mark_is_nothing(task, tmp_path):
    task(both())
    file = tmp_path / "glue" / "Task" / "train.tsv"
    file.write_bytes("﻿sentence\tlabel\nw5\tbad\n".encode() + b"w6 \xff\tgood\n")
    with pytest.raises(ValueError, match=r"train\.tsv has 1 bad row \(line 3: sentence holds bytes that are not UTF-8\)"):
        task({}).prepare_data()


def test_another_number_of_rows_than_the_benchmarks_is_said_once(task, capsys):
    """A chain reads the same files in each of its stages."""
    reader = task(both(test=labelled(3)), rows={"train": 104743, "validation": 9}).reader
    reader.splits(unlabelled=False)
    reader.splits(unlabelled=False)
    assert capsys.readouterr().out == "demo: train has 22 rows; the benchmark has 104,743.\n"


def test_every_labelled_split_that_is_named_is_measured_under_its_name(task):
    files = {name: f"{name}.tsv" for name in ("train", "validation", "mismatched", "test")}
    data = task(both(mismatched=labelled(5), test=table([(0, "w5")], header="index\tsentence")), files=files)
    data.prepare_data()
    assert {name: len(examples(loader)) for name, loader in data.evaluations().items()} == {"mismatched": 5}


@pytest.mark.parametrize(("unlabelled", "expected"), [(False, 6), (True, 22)])
def test_rows_beyond_the_label_budget_are_trained_on_only_where_unlabelled_rows_are_wanted(task, unlabelled, expected):
    files = {"train": "train.tsv", "validation": "validation.tsv"}
    data = task(both(), files=files, label_budget=6, unlabelled=unlabelled)
    data.prepare_data()
    labels = [label for batch in data.train_dataloader() for label in batch["labels"].tolist()]
    assert len(labels) == expected
    assert labels.count(0) == labels.count(1) == 3


def test_a_split_may_be_several_files_of_any_format_whose_labels_lie_in_objects(task, tmp_path):
    task(both())
    for number, size in (("a", 4), ("b", 3)):
        rows = [{"text": f"{number} {i}", "labels": {"label": "bad" if i % 2 else "good"}} for i in range(size)]
        (tmp_path / "glue" / "Task" / f"{number}.json").write_text(json.dumps(rows, indent=4))
    files = {"train": ["a.json", "b.json"], "validation": "a.json"}
    data = task({}, files=files, format=None, text=["text"], label="labels.label", rows={"train": 7})
    splits = data.reader.splits(unlabelled=False)
    assert splits["train"]["sentence1"][:] == ["a 0", "a 1", "a 2", "a 3", "b 0", "b 1", "b 2"]
    assert splits["train"]["label"][:] == [1, 0, 1, 0, 1, 0, 1]
    assert len(splits["validation"]) == 4


def test_where_a_benchmark_has_no_validation_a_share_of_train_is_held_out_and_test_is_left_alone(task, capsys):
    data = task({"train": labelled(22), "test": labelled(6)}, files={"train": "train.tsv", "test": "test.tsv"})
    splits = data.reader.splits(unlabelled=False)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [20, 2, 6]
    assert sorted(splits["validation"]["label"]) == [0, 1]
    assert not set(splits["train"]["sentence1"]) & set(splits["validation"]["sentence1"])
    assert "demo: 2 of train's rows are held out for validation." in capsys.readouterr().out


def test_the_hub_may_have_other_columns_labels_in_objects_and_a_split_in_several_configurations(task, monkeypatch):
    asked = []

    def load(name, configuration, revision):
        asked.append((configuration, revision))
        rows = [{"said": f"{configuration} {n}", "all": {"score": n / 2}} for n in range(3)]
        return DatasetDict(train=Dataset.from_list(rows), dev=Dataset.from_list(rows[:2]))

    monkeypatch.setattr("kd_lightning.data.glue.load_dataset", load)
    hub = {"root": None, "hub": ["some/one", "x"], "hub_text": ["said"], "hub_label": "all.score", "hub_revision": "parquet"}
    files = {"train": ["a.tsv", "b.tsv"], "validation": "c.tsv"}
    names = {"train": ["a/train", "b/train"], "validation": "dev"}
    splits = task({}, **hub, files=files, hub_splits=names, labels=["score"]).reader.splits(unlabelled=False)
    assert splits["train"].to_dict() == {"sentence1": [f"{c} {n}" for c in "ab" for n in range(3)], "label": [0, 0.5, 1] * 2}
    assert splits["validation"]["sentence1"][:] == ["x 0", "x 1"]
    assert asked == [("a", "parquet"), ("b", "parquet"), ("x", "parquet")]


def test_a_data_set_of_the_hub_that_is_built_by_code_is_refused_with_what_to_give_instead(task, monkeypatch):
    def load(*_, **__):
        raise RuntimeError("Dataset scripts are no longer supported, but found nsmc.py")

    monkeypatch.setattr("kd_lightning.data.glue.load_dataset", load)
    data = task({}, root=None, hub=["e9t/nsmc", "default"])
    with pytest.raises(ValueError, match=r"e9t/nsmc:default cannot be loaded \(Dataset scripts .*\)\. Give task\.root=<folder"):
        data.prepare_data()
