import sys
from types import SimpleNamespace

import pytest

from kd_lightning.data import kiwi


def test_korean_words_are_cut_and_tagged_by_their_morphemes():
    pytest.importorskip("kiwipiepy", reason="the extra 'korean' is not installed")
    text = "고양이가 😀 밥을 먹었다"
    assert [text[a:b] for a, b, _ in kiwi.spans(text)][:2] == ["고양이", "가"]
    tags = kiwi.tagged(text.split())
    assert [word for word, _ in tags] == text.split()
    assert tags[0][1] == "NNG+JKS"
    assert tags[2][1] == "NNG+JKO"


def test_each_word_has_the_tags_of_the_morphemes_that_begin_in_it(monkeypatch):
    """`ab` is two morphemes and `c` one that a contraction shares its place with."""
    found = [(0, 1, "A"), (1, 2, "B"), (3, 4, "C"), (3, 4, "D"), (5, 8, "E")]
    tokens = [SimpleNamespace(start=start, end=end, tag=tag) for start, end, tag in found]
    monkeypatch.setattr(kiwi, "_kiwi", lambda: SimpleNamespace(tokenize=lambda text: tokens if text == "ab c def" else []))
    assert kiwi.tagged(["ab", "c", "def"]) == [("ab", "A+B"), ("c", "C+D"), ("def", "E")]


def test_without_kiwi_a_sentence_says_how_to_install_it(monkeypatch):
    kiwi._kiwi.cache_clear()
    monkeypatch.setitem(sys.modules, "kiwipiepy", None)
    with pytest.raises(ValueError, match=r"is not installed: pip install -e '\.\[korean\]'"):
        kiwi.spans("가")
