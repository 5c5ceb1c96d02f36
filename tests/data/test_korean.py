"""The Korean benchmarks as they are published, read beside Python's own csv and json; and files in their layout."""

import csv
import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from kd_lightning.data.glue import Glue

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "ko"
HUB = {  # task -> what its card says: the data set, text and label columns, and the names of its splits
    "nsmc": ("e9t/nsmc", ["document"], "label", {"train": "train", "test": "test"}),
    "klue_ynat": ("klue/klue", ["title"], "label", {"train": "train", "validation": "validation"}),
    "klue_sts": ("klue/klue", ["sentence1", "sentence2"], "labels.label", {"train": "train", "validation": "validation"}),
    "korsts": (
        "dkoterwa/kor-sts",
        ["sentence1", "sentence2"],
        "score",
        {"train": "train", "validation": "valid", "test": "test"},
    ),
    "korean_hate_speech": ("inmoonlight/kor_hate", ["comments"], "hate", {"train": "train", "validation": "test"}),
}


@pytest.fixture(scope="module", autouse=True)
def configuration():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def reader(task: str, *settings: str) -> Glue:
    return instantiate(compose("train", [f"task={task}", *settings]).task.reader, _convert_="all")


def columns(file: Path) -> list[dict]:
    with file.open(encoding="utf-8", newline="\n") as opened:
        return (
            json.load(opened)
            if file.suffix == ".json"
            else list(csv.DictReader(opened, delimiter="\t", quoting=csv.QUOTE_NONE))
        )


@pytest.mark.skipif(not DATA.is_dir(), reason="the Korean data sets are not beside this folder")
@pytest.mark.parametrize(
    ("task", "folder", "splits", "label", "classes"),
    [
        ("korean_hate_speech", "hate-speech", {"train": 7896, "validation": 471}, "hate", ["none", "offensive", "hate"]),
        ("korsts", "korsts", {"train": 5749, "validation": 1500, "test": 1379}, "score", None),
        ("kornli", "kornli", {"validation": 2490, "test": 5010}, "gold_label", ["entailment", "neutral", "contradiction"]),
        ("klue_sts", "klue", {"validation": 519}, "labels", None),
    ],
)
def test_the_published_files_have_the_official_rows_texts_and_labels(task, folder, splits, label, classes, capsys):
    found = reader(task, f"task.root={DATA / folder}")
    for split, count in splits.items():
        rows, expected = found.read(split, labelled=True), columns(DATA / folder / found.files[split])
        assert len(rows) == len(expected) == count
        assert rows["sentence1"][:] == [row[found.text[0]] for row in expected]
        if len(found.text) == 2:
            assert rows["sentence2"][:] == [row[found.text[1]] for row in expected]
        told = [row[label]["label"] if label == "labels" else row[label] for row in expected]
        assert rows["label"][:] == [classes.index(name) if classes else float(name) for name in told]
    assert "the benchmark has" not in capsys.readouterr().out


def test_files_in_the_layout_of_those_that_are_not_here_are_read(tmp_path, capsys):
    """NSMC's and YNAT's, two rows of each written by hand after their descriptions."""
    ratings = (
        'id\tdocument\tlabel\n9976970\t아 더빙.. 진짜 짜증나네요 목소리\t0\n2190435\t\t1\n3\t"교도소 이야기"\t0\n4\t좋아요\t1\n'
    )
    for name in ("ratings_train.txt", "ratings_test.txt"):
        (tmp_path / name).write_text(ratings, encoding="utf-8")
    splits = reader("nsmc", f"task.root={tmp_path}", "task.reader.validation_share=0.5").splits(unlabelled=False)
    assert sorted(splits["train"]["sentence1"][:] + splits["validation"]["sentence1"][:]) == sorted(splits["test"]["sentence1"])
    assert splits["test"]["sentence1"][:] == ["아 더빙.. 진짜 짜증나네요 목소리", "", '"교도소 이야기"', "좋아요"]
    assert splits["test"]["label"][:] == [0, 1, 0, 1]
    assert len(reader("nsmc", f"task.root={tmp_path}", "task.on_empty=skip").read("test", labelled=True)) == 3
    assert "ratings_test.txt: 1 row without a text left out (the first is line 3)." in capsys.readouterr().out
    headlines = [
        {"guid": "a", "title": "유튜브 새 기능", "label": "IT과학"},
        {"guid": "b", "title": "총선 결과", "label": "정치"},
    ]
    for part in ("train", "dev"):
        (tmp_path / f"ynat-v1.1_{part}.json").write_text(json.dumps(headlines, ensure_ascii=False, indent=4), encoding="utf-8")
    splits = reader("klue_ynat", f"task.root={tmp_path}").splits(unlabelled=False)
    assert splits["validation"].to_dict() == {"sentence1": ["유튜브 새 기능", "총선 결과"], "label": [0, 6]}


@pytest.mark.parametrize("task", HUB)
def test_without_files_the_hubs_columns_and_splits_are_asked_for(task):
    name, text, label, splits = HUB[task]
    found = reader(task)
    assert (found.root, found.hub[0], found.hub_text, found.hub_label) == (None, name, text, label)
    assert {split: found.hub_splits.get(split, split) for split in found.files} == splits
