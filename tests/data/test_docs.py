"""The embedded demo data, made from a tiny tree of source files in place of the installed packages."""

import json
import random
import re

import pytest

from kd_lightning.data import docs

WORDS = [
    *("river", "stone", "candle", "garden", "winter", "letter", "engine", "silver", "window", "bridge", "forest"),
    *("mirror", "ladder", "anchor", "basket", "copper", "feather", "harbour", "island", "jacket", "kettle", "lantern"),
]
NOISE = '''"""Fold the paper along the dotted line before you cut it.

>>> fold("The paper is folded and then it is cut in two.")

If the size of the paper == the size of the table at the end of the day, then the paper is to be folded.

Parameters
----------
paper : sheet, optional
edge : where the fold is to be

The corners of the :class:`~paper.Sheet` may be ``rounded`` with a *sharp* knife.

=====  =====
Table  Of the things that are not prose in this file.
=====  =====

.. note:: This directive is not a paragraph of the text.

Args:
    weight (float): The weight of the paper is in grams and it
        must not be negative.
    x: no sentence
"""
'''
FOLDED = [
    "Fold the paper along the dotted line before you cut it.",
    "The corners of the paper.Sheet may be rounded with a sharp knife.",
    "The weight of the paper is in grams and it must not be negative.",
]


def sentence(rng: random.Random) -> str:
    return f"The {' '.join(rng.sample(WORDS, 6))} is in the {rng.choice(WORDS)}."


def source(folder, files: dict[str, str], name: str = "alpha") -> docs.Source:
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")
    return docs.Source(name, "1.0", folder)


def paragraphs(found: docs.Source) -> list[str]:
    return [p for d in docs.documents([found]) for p in d.paragraphs]


def rows(folder, file: str) -> list[list[str]]:
    lines = (folder / file).read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    return [line.split("\t") for line in lines]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two packages with 300 docstrings of three paragraphs each, as if they were what is installed."""
    rng = random.Random(0)
    found = []
    for name in ("alpha", "beta"):
        texts = ["\n\n    ".join(sentence(rng) for _ in range(3)) for _ in range(300)]
        code = "\n".join(f'def f{n}():\n    """{text}"""\n' for n, text in enumerate(texts))
        code += f'def own():\n    """The package {name} tells by its name where this paragraph is from."""\n'
        found.append(source(tmp_path / name, {"module.py": code}, name))
    monkeypatch.setattr(docs, "installed", lambda: found)
    monkeypatch.setattr(docs, "TOPICS", ("alpha", "beta"))
    return found


@pytest.fixture
def folder(packages, tmp_path):
    return docs.build(tmp_path / "cache")


def test_prose_is_kept_as_plain_text_and_everything_else_is_dropped(tmp_path):
    assert paragraphs(source(tmp_path, {"paper.py": NOISE})) == FOLDED


def test_documents_come_in_the_order_of_the_files_and_of_the_definitions_in_them(tmp_path):
    rng = random.Random(1)
    a, b, c, d = (sentence(rng) for _ in range(4))
    first = f'"""{a}"""\nclass C:\n    """{b}"""\n    def f(self):\n        """{c}"""\n'
    assert paragraphs(source(tmp_path, {"z.py": f'"""{d}"""', "a.py": first})) == [a, b, c, d]


def test_paragraphs_that_differ_in_names_only_are_kept_once(tmp_path):
    found = source(
        tmp_path,
        {
            "a.py": '"""Return the configuration of the FooModel with 12 layers for this task."""',
            "b.py": '"""Return the configuration of the BarModel with 24 layers for this task."""',
            "c.py": '"""Return the configuration of the FooModel with 12 layers for every task."""',
        },
    )
    assert [p.split()[-2] for p in paragraphs(found)] == ["this", "every"]


def test_files_that_are_no_python_and_tests_are_passed_over(tmp_path):
    rng = random.Random(2)
    kept, hidden = sentence(rng), sentence(rng)
    found = source(tmp_path, {"bad.py": "def {{ name }}", "good.py": f'"""{kept}"""', "tests/t.py": f'"""{hidden}"""'})
    assert paragraphs(found) == [kept]


def test_nothing_is_imported(tmp_path):
    found = source(tmp_path, {"a.py": '"""This module must not be run when it is read."""\nraise SystemExit'})
    assert len(paragraphs(found)) == 1


def test_no_paragraph_and_no_docstring_is_in_two_splits(packages, folder):
    home = {p: n for n, d in enumerate(docs.documents(packages)) for p in d.paragraphs}
    split_of: dict[int, str] = {}
    for task, width in (("docs_topic", 1), ("docs_pair", 2)):
        for split in docs.SPLITS:
            fields = [field for row in rows(folder, f"{task}/{split}.tsv")[1:] for field in row[:width]]
            assert fields
            assert {split_of.setdefault(home[field], split) for field in fields} == {split}


def test_the_corpus_holds_the_train_docstrings_and_none_of_dev_and_test(packages, folder):
    corpus = (folder / "corpus.txt").read_text(encoding="utf-8")
    documents = [set(d.paragraphs) for d in docs.documents(packages)]
    kept = [set(text.split("\n")) - {""} for text in corpus.split("\n\n")]
    for task, width in (("docs_topic", 1), ("docs_pair", 2)):
        for split in docs.SPLITS:
            fields = {field for row in rows(folder, f"{task}/{split}.tsv")[1:] for field in row[:width]}
            assert fields
            whole = set().union(*(d for d in documents if d & fields))
            held_out = split in ("dev", "test")
            assert set().union(*kept).isdisjoint(whole) if held_out else set().union(*kept) >= whole
    assert all(text in documents for text in kept)


def test_topic_rows_are_labelled_with_their_package_in_equal_parts_and_never_name_it(packages, folder, monkeypatch):
    package = {p: d.package for d in docs.documents(packages) for p in d.paragraphs}
    header, *train = rows(folder, "docs_topic/train.tsv")
    assert header == ["sentence", "label"]
    assert train
    assert all(package[text] == label for text, label in train)
    assert rows(folder, "docs_topic/unlabelled.tsv")[0] == ["sentence"]
    everything = [row[0] for split in docs.SPLITS for row in rows(folder, f"docs_topic/{split}.tsv")[1:]]
    assert any("by its name" in text for text in package)
    assert not any("by its name" in text for text in everything)

    monkeypatch.setattr(docs, "SPLITS", {"train": (1.0, 20)})
    labels = [row[-1] for row in docs.topic_rows(list(docs.documents(packages)))["train"]]
    assert (labels.count("alpha"), labels.count("beta")) == (10, 10)


def test_follows_means_the_next_paragraph_and_random_another_docstring_of_the_same_package(packages, folder):
    place = {p: (d.package, n, k) for n, d in enumerate(docs.documents(packages)) for k, p in enumerate(d.paragraphs)}
    header, *train = rows(folder, "docs_pair/train.tsv")
    assert header == ["sentence1", "sentence2", "label"]
    assert rows(folder, "docs_pair/unlabelled.tsv")[0] == ["sentence1", "sentence2"]
    assert train
    for first, second, label in train:
        (package, docstring, k), (package_2, docstring_2, k_2) = place[first], place[second]
        assert package == package_2
        assert label == ("follows" if (docstring, k + 1) == (docstring_2, k_2) else "random")
        assert label == "follows" or docstring != docstring_2
    labels = [label for *_, label in train]
    assert labels.count("follows") == labels.count("random") > 0


def test_a_second_call_writes_nothing(packages, folder, tmp_path, monkeypatch):
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    monkeypatch.setattr(docs, "write", None)
    assert docs.build(tmp_path / "cache") == folder
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


def test_two_builds_are_equal_to_the_byte(folder, tmp_path):
    again = docs.build(tmp_path / "elsewhere")
    assert again.name == folder.name
    files = [f.relative_to(folder) for f in folder.rglob("*") if f.is_file()]
    assert len(files) == 11
    assert all((folder / f).read_bytes() == (again / f).read_bytes() for f in files)


def test_another_version_of_a_package_gets_another_folder(packages, folder, tmp_path, monkeypatch):
    newer = [packages[0], packages[1]._replace(version="1.1")]
    monkeypatch.setattr(docs, "installed", lambda: newer)
    assert docs.build(tmp_path / "cache") != folder


def test_a_truncated_file_is_told_and_all_is_made_again(folder, tmp_path, capsys):
    corpus = folder / "corpus.txt"
    whole = corpus.read_bytes()
    corpus.write_bytes(whole[:-5])
    assert docs.build(tmp_path / "cache") == folder
    assert re.search(r"corpus\.txt has .* bytes in place of .*It is made again\.", capsys.readouterr().out)
    assert corpus.read_bytes() == whole


def test_an_interrupted_build_leaves_nothing_behind(packages, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dumps", interrupt)  # at the very end
    with pytest.raises(KeyboardInterrupt):
        docs.build(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_standard_library_and_the_packages_of_a_run_are_found_with_their_versions():
    found = {s.name: s for s in docs.installed()}
    assert (found["python"].folder / "json" / "decoder.py").is_file()
    assert (found["torch"].folder / "nn").is_dir()
    assert all(s.version for s in found.values())
    assert set(docs.TOPICS) <= {*docs.PACKAGES, "python"}
