import random
from collections import Counter

import pytest
from datasets import Dataset

from kd_lightning.word_order import accuracy, sensitivity, shuffled


@pytest.mark.parametrize(("percent", "expected"), [(93, 0.14), (83, 0.34), (50, 1.0)])
def test_sensitivity_is_what_shuffling_costs(percent, expected):
    """specs/low-resource.md, section 8.K."""
    assert sensitivity(percent / 100) == pytest.approx(expected)


def test_shuffling_keeps_the_words():
    text = "one two two three four five six seven"
    several = {shuffled(text, random.Random(seed)) for seed in range(20)}
    assert len(several) > 10
    assert all(Counter(mixed.split()) == Counter(text.split()) for mixed in several)
    assert shuffled("alone", random.Random(0)) == "alone"


def test_the_accuracy_on_shuffled_words_is_that_of_a_model_that_needs_their_order():
    """A model that answers "yes" where the first word is "a" and the second text's last is "z"."""

    def classifier(texts):
        return [{"label": "yes" if one.split()[0] == "a" and two.split()[-1] == "z" else "no"} for one, two in texts]

    rows = Dataset.from_dict({"sentence1": ["a b"] * 4000, "sentence2": ["y z"] * 4000, "label": [1] * 4000})
    assert accuracy(classifier, rows, ["no", "yes"], None) == 1.0
    assert accuracy(classifier, rows, ["no", "yes"], random.Random(0)) == pytest.approx(0.25, abs=0.03)
    assert accuracy(classifier, rows, ["yes", "no"], None) == 0.0
