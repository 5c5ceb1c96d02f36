from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from datasets import Dataset

from kd_lightning.data.augment.tang import Tang

RULES = {"mask": 0.1, "pos": 0.1, "ngram": 0.25, "variants": 20, "tagger": None, "seed": 0}


def rows(*texts: str, label: list | None = None) -> Dataset:
    return Dataset.from_dict({"sentence1": list(texts), "label": label or [n % 2 for n in range(len(texts))]})


def made(data: Dataset, **rules) -> list[str]:
    found = Tang(**(RULES | rules))(data)
    assert found[: len(data)] == data[:]
    assert found.features == data.features
    return found["sentence1"][len(data) :]


def long_text(length: int = 2000, words: int = 500) -> str:
    return " ".join(f"w{n}" for n in np.random.default_rng(0).integers(words, size=length))


def test_a_variant_of_nothing_but_masks_is_dropped_and_so_is_what_is_there_already():
    assert made(rows("a b c", "d e"), mask=1.0, pos=0.0, ngram=0.0) == []
    assert made(rows("a b c", "d e"), mask=0.0, pos=0.0, ngram=0.0) == []

    def own(words):
        return [(word, word) for word in words]  # every word is the only one of its part of speech

    assert made(rows("a b c", "d e"), mask=0.0, pos=0.9, ngram=0.0, tagger=own) == []
    assert made(rows("a b", "b a", "a", "b"), mask=0.0, pos=0.0, ngram=1.0) == []  # all n-grams of them are there


def test_a_tenth_of_the_words_is_masked_and_a_tenth_replaced_by_what_is_as_frequent():
    text = long_text()
    found = made(rows(text), ngram=0.0, variants=100)  # 200,000 words
    words = [variant.split() for variant in found]
    assert {len(variant) for variant in words} == {2000}
    pairs = [(old, new) for variant in words for old, new in zip(text.split(), variant, strict=True)]
    masked = sum(new == "[MASK]" for _, new in pairs) / len(pairs)
    assert masked == pytest.approx(0.1, abs=0.003)
    frequencies = Counter(text.split())
    same = sum((count / 2000) ** 2 for count in frequencies.values())  # a draw may give the word itself
    replaced = sum(new not in (old, "[MASK]") for old, new in pairs) / len(pairs)
    assert replaced == pytest.approx(0.1 * (1 - same), abs=0.003)
    drawn = Counter(new for old, new in pairs if new not in (old, "[MASK]"))
    word, most = frequencies.most_common(1)[0]
    assert drawn[word] / drawn.total() == pytest.approx(most / 2000, rel=0.25)


def test_a_word_is_replaced_by_one_of_its_own_part_of_speech():
    def by_letter(words):
        return [(word, word[0]) for word in words]

    variants = made(rows("a1 b1 a2 b2 a3 b3"), mask=0.0, pos=0.5, ngram=0.0, tagger=by_letter)
    assert len(variants) > 1
    for variant in variants:
        assert [word[0] for word in variant.split()] == ["a", "b"] * 3


def test_ngrams_have_one_to_five_words_alike_often_and_start_anywhere():
    text = " ".join(f"w{n}" for n in range(2000))
    words = [variant.split() for variant in made(rows(text), mask=0.0, pos=0.0, ngram=1.0, variants=9000)]
    lengths = Counter(map(len, words))  # single words are soon there already
    assert set(lengths) == {1, 2, 3, 4, 5}
    assert lengths[5] / lengths[4] == pytest.approx(1, abs=0.12)
    assert all(int(b[1:]) == int(a[1:]) + 1 for variant in words for a, b in pairwise(variant))
    short = set(made(rows("a b c d e f g"), mask=0.0, pos=0.0, ngram=1.0, variants=500))
    assert {"a", "g", "f g", "a b", "c d e f g"} <= short


def test_a_text_shorter_than_the_ngram_still_has_variants():
    assert set(made(rows("a b"), mask=0.0, pos=0.0, ngram=1.0, variants=50)) == {"a", "b"}


def test_variants_are_new_at_most_so_many_and_without_labels():
    data = rows(*(f"this is text number {n} of many" for n in range(30)))
    found = made(data)
    assert len(found) <= 600
    assert len(set(found)) == len(found)
    assert not set(found) & set(data["sentence1"])
    labels = Tang(**RULES)(data)["label"]
    assert labels[:30] == data["label"][:]
    assert set(labels[30:]) == {-100}
    scores = Tang(**RULES)(rows("a b c d", label=[2.5]))["label"]
    assert scores[0] == 2.5
    assert np.isnan(scores[1:]).all()


def test_of_a_pair_one_text_varies_in_two_thirds_of_the_draws():
    first, second = long_text(40), long_text(41)
    data = Dataset.from_dict({"sentence1": [first], "sentence2": [second], "label": [1]})
    found = Tang(**(RULES | {"variants": 6000, "ngram": 0.0}))(data)
    changed = Counter((a != first, b != second) for a, b in zip(found["sentence1"][1:], found["sentence2"][1:], strict=True))
    for kind in ((True, False), (False, True), (True, True)):
        assert changed[kind] / changed.total() == pytest.approx(1 / 3, abs=0.03)
    assert changed[False, False] == 0


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    data = rows(*(f"this is text number {n} of many" for n in range(5)))
    assert made(data) == made(data) != made(data, seed=1)


def test_mistakes_are_said_in_a_sentence():
    with pytest.raises(ValueError, match=r"mask=0\.7, pos=0\.4, ngram=0\.25 are probabilities"):
        Tang(**(RULES | {"mask": 0.7, "pos": 0.4}))
    with pytest.raises(ValueError, match=r"augment\.variants=0"):
        Tang(**(RULES | {"variants": 0}))

    def without_data(words):
        raise LookupError("Resource averaged_perceptron_tagger_eng not found.")

    with pytest.raises(ValueError, match=r"augment\.tagger: its data is not installed"):
        made(rows("a b"), tagger=without_data)
