"""The paper's algorithm on rows small enough to work out by hand, with a masked LM that says what it is told to."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value

from kd_lightning.data.augment.masked_lm import Augment, Share, draws
from kd_lightning.data.formats import say

TEXTS = ["The film was good.", "3 , not", "good dog , good cat", ""]
SCRIPT = {"film": ["movie"], "good": ["fine"], "dog": ["cat"], "cat": ["dog"]}


@pytest.fixture
def augment(scripted, tmp_path):
    """An Augment of a scripted masked LM, which it carries as `network`."""

    def make(script=None, network=None, **other) -> Augment:
        network = network or scripted(SCRIPT if script is None else script)
        given = {"vectors": None, "probability": 0.4, "candidates": 1, "variants": 10, "seed": 3}
        given |= {"language": "en", "precision": "32-true", "cache": str(tmp_path / "cache")} | other
        augment = Augment(masked_lm=lambda: network, **given)
        augment.network = network
        return augment

    return make


def rows(texts=TEXTS) -> Dataset:
    return Dataset.from_dict({"sentence": list(texts), "label": [f"label {i}" for i in range(len(texts))]})


def test_with_probability_1_every_word_that_may_change_does_and_nothing_else(augment):
    assert augment(probability=1)(rows()).to_dict() == {
        "sentence": [TEXTS[0], "the movie was fine .", TEXTS[1], TEXTS[2], "fine cat , fine dog", TEXTS[3]],
        "label": ["label 0", "label 0", "label 1", "label 2", "label 2", "label 3"],
    }


def test_with_probability_0_the_rows_stay_as_they_are(augment):
    assert augment(probability=0)(rows()).to_dict() == rows().to_dict()


def test_each_row_comes_first_and_then_its_variants_each_once(augment):
    script = {"film": ["movie", "play", "film"], "good": ["bad", "fine", "good"]}
    found = augment(script, candidates=3, variants=200, probability=1)(rows(["The film was good.", "film"])).to_dict()
    first = [text for text, label in zip(*found.values(), strict=True) if label == "label 0"]
    assert found["sentence"] == [*first, "film", *found["sentence"][len(first) + 1 :]]
    every = {f"the {a} was {b} ." for a in ("film", "movie", "play") for b in ("good", "bad", "fine")}
    assert first[0] == "The film was good."
    assert sorted(first[1:]) == sorted(every - {"the film was good ."})
    assert sorted(found["sentence"][len(first) + 1 :]) == ["movie", "play"]


def test_there_are_at_most_so_many_variants(augment):
    script = {word: ["film", "good", "dog", "cat", "bad", "fine"] for word in ("film", "good", "dog", "cat")}
    found = augment(script, candidates=6, variants=5, probability=1)(rows(["film good dog cat film good dog cat"]))
    assert len(found) == 6


def test_of_a_pair_one_text_varies_while_the_other_is_the_original(augment):
    pairs = Dataset.from_dict({"a": ["Good film"], "label": ["yes"], "b": ["A dog"]})
    found = augment(probability=1)(pairs).to_dict()
    expected = [("Good film", "A dog"), ("fine movie", "A dog"), ("Good film", "a cat")]
    assert list(zip(found["a"], found["b"], strict=True)) == expected
    assert found["label"] == ["yes"] * 3


def test_columns_keep_their_types(augment):
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    given = Dataset.from_dict({"sentence": ["film", "dog"], "label": [1, 0]}, features=features)
    found = augment(probability=1)(given)
    assert found.features == features
    assert found["label"][:] == [1, 1, 0, 0]


def test_the_seed_decides_and_a_row_has_its_own_draws(augment, tmp_path):
    def made(texts, folder, **other) -> list[str]:
        options = {"candidates": 9, "variants": 3, "cache": str(tmp_path / folder)}
        script = {word: ["film", "play", "good", "bad", "fine", "cat", "dog"] for word in SCRIPT}
        return augment(script, **options | other)(rows(texts))["sentence"][:]

    text = "film good dog cat"
    assert made([text], "a") == made([text], "b")
    assert made([text], "c", seed=4) != made([text], "a")
    twice = made([text, text], "d")
    assert twice[: len(made([text], "a"))] == made([text], "a")
    middle = twice.index(text, 1)
    assert twice[:middle] != twice[middle:]


def test_words_change_as_often_as_expected_and_candidates_are_alike_likely():
    """TinyBERT, check M: the original among 15 candidates, so a share of 0.4 · 14 / 15 changes."""
    names = [f"c{i}" for i in range(14)]
    words, choices, share = ["the", "w", "w"], [[], [*names, "w"], [*names, "w"]], Share(0.4)
    drawn = draws(words, choices, probability=0.4, count=20_000, random=np.random.default_rng(0))
    share.count(words, choices, drawn)
    assert share.expected == pytest.approx(0.37333, abs=1e-5)
    assert share.observed == pytest.approx(0.37333, abs=4 * (0.3733 * 0.6267 / 40_000) ** 0.5)
    assert {text[0] for text in drawn} == {"the"}
    for place in (1, 2):
        counts = [sum(text[place] == name for text in drawn) for name in names]
        assert counts == pytest.approx([20_000 * 0.4 / 15] * 14, abs=4.5 * (20_000 * 0.4 / 15) ** 0.5)
    both = sum(text[1] != "w" and text[2] != "w" for text in drawn) / 20_000
    assert both == pytest.approx(0.37333**2, abs=4 * (0.1394 * 0.8606 / 20_000) ** 0.5)


def test_the_share_counts_every_draw_of_every_word_that_may_change():
    share = Share(0.5)
    share.count(["a", "b", "c"], [["x", "a"], [], ["c"]], [("x", "b", "c"), ("a", "b", "c"), ("x", "b", "c"), ("x", "b", "c")])
    assert (share.observed, share.expected) == (3 / 8, (4 * 0.25) / 8)
    assert (Share(0.5).observed, Share(0.5).expected) == (0, 0)


def test_the_share_and_the_speed_are_told_when_rows_are_made(augment, capsys):
    augment(probability=1)(rows())
    said = capsys.readouterr().out
    assert "Augmented 4 rows to 6, " in said
    assert "rows a second" in said
    assert "100.00% did; 100.00% are expected" in said
    augment(probability=1)(rows())
    assert not capsys.readouterr().out


def files(tmp_path) -> set[str]:
    return {path.name for path in (tmp_path / "cache").glob("*")}


def test_a_sentence_of_many_rows_is_asked_about_once_and_what_was_written_is_reused(augment, tmp_path):
    texts = ["good film", "dog"] * 5
    first = augment()
    made = first(rows(texts)).to_dict()
    assert sum(len(batch["input_ids"]) for batch in first.network.asked) == 3
    written = files(tmp_path)
    assert sorted(name.split("-")[0] for name in written) == ["augmented", "candidates"]
    again = augment()
    assert again(rows(texts)).to_dict() == made
    assert not again.network.asked
    assert files(tmp_path) == written
    path = next((tmp_path / "cache").glob("augmented-*/rows.arrow"))
    assert pa.ipc.open_stream(path).read_all().to_pydict() == made


@pytest.mark.parametrize("change", [{"seed": 4}, {"probability": 0.5}, {"variants": 9}])
def test_other_draws_reuse_the_candidates(change, augment, tmp_path):
    augment()(rows())
    other = augment(**change)
    other(rows())
    assert not other.network.asked
    assert sorted(name.split("-")[0] for name in files(tmp_path)) == ["augmented", "augmented", "candidates"]


def test_another_masked_lm_other_vectors_or_other_texts_are_asked_again(augment, scripted, tmp_path):
    augment()(rows())
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("film 1 0\n", encoding="utf-8")
    heavier = scripted(SCRIPT)
    torch.nn.init.ones_(heavier.weight)
    for number, other in enumerate(({"candidates": 2}, {"network": heavier}, {"vectors": str(vectors)}), start=2):
        changed = augment(**other)
        changed(rows())
        assert changed.network.asked
        assert len(files(tmp_path)) == 2 * number
    changed = augment()
    changed(rows(["film", *TEXTS]))
    assert changed.network.asked


def test_other_labels_are_other_rows(augment):
    augment()(rows())
    other = rows().remove_columns("label").add_column("label", ["x"] * len(TEXTS))
    assert set(augment()(other)["label"][:]) == {"x"}


def test_an_interruption_leaves_nothing(augment, tmp_path, monkeypatch):
    monkeypatch.setattr("kd_lightning.data.augment.masked_lm.BLOCK", 1)
    interrupted = augment()
    forward = interrupted.network.forward

    def stop(*given):
        if interrupted.network.asked:
            raise KeyboardInterrupt
        return forward(*given)

    interrupted.network.forward = stop
    with pytest.raises(KeyboardInterrupt):
        interrupted(rows())
    assert files(tmp_path) == set()
    assert len(augment(probability=1)(rows())) == 6


def test_an_interruption_after_the_masked_lm_was_asked_leaves_its_candidates_alone(augment, tmp_path, monkeypatch):
    monkeypatch.setattr("kd_lightning.data.augment.masked_lm.BLOCK", 1)
    drawn = []

    def stop(*given, **more):
        drawn.append(given)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return draws(*given, **more)

    monkeypatch.setattr("kd_lightning.data.augment.masked_lm.draws", stop)
    with pytest.raises(KeyboardInterrupt):
        list(augment()(rows()))
    assert [name.partition("-")[0] for name in files(tmp_path)] == ["candidates"]


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]])
@pytest.mark.parametrize("name", ["augmented", "candidates"])
def test_a_damaged_file_is_told_and_made_again(name, damage, augment, tmp_path, capsys):
    made = augment()(rows()).to_dict()
    (path,) = (file for file in (tmp_path / "cache").glob(f"{name}-*/*") if file.name != "manifest.json")
    path.write_bytes(damage(path.read_bytes()))
    if name == "candidates":
        shutil.rmtree(next((tmp_path / "cache").glob("augmented-*")))
    capsys.readouterr()
    again = augment()
    assert again(rows()).to_dict() == made
    assert bool(again.network.asked) == (name == "candidates")
    assert f"{path} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"probability": 1.5}, r"augment\.probability=1\.5: a share from 0 to 1 is wanted"),
        ({"candidates": 0}, r"augment\.candidates=0: a number from 1 up is wanted"),
        ({"variants": 0}, r"augment\.variants=0: a number from 1 up is wanted; without augmentation: augment=none"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(given, words, augment):
    with pytest.raises(ValueError, match=words):
        augment(**given)


def test_where_nothing_can_change_it_is_said_whether_the_rows_are_new_or_kept(augment, capsys):
    given = rows(["3 , .", "the was", ""])
    for _ in range(2):
        say.cache_clear()
        assert augment(probability=1)(given).to_dict() == given.to_dict()
        assert "augment: none of the 3 rows has a variant, so training has these rows alone: their" in capsys.readouterr().out
    augment(probability=1)(rows())
    assert "none of the" not in capsys.readouterr().out


def test_a_language_without_stop_words_is_said_and_its_rows_are_others(augment, capsys):
    say.cache_clear()
    script = SCRIPT | {"the": ["bad"]}
    assert len(augment(script, probability=1)(rows(["the film"]))) == 2
    assert "has a list of stop words" not in capsys.readouterr().out
    assert augment(script, probability=1, language="ko")(rows(["the film"]))["sentence"][:] == ["the film", "bad movie"]
    assert "augment.language=ko: only en has a list of stop words, so any word of letters may be re" in capsys.readouterr().out
