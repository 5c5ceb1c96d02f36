"""Nearest words against vectors in the plane, whose angles can be seen."""

import gzip

import pytest
import torch

from kd_lightning.data.augment import vectors
from kd_lightning.data.augment.vectors import glove, input_embeddings

FILE = """film 1 0
movie 0.9 0.1
play 10 3
cat -1 0.1
dog -1 0
new york 0 1
Paris 0.1 -1
"""


@pytest.fixture
def file(tmp_path):
    def make(text: str = FILE) -> str:
        path = tmp_path / "vectors.txt"
        path.write_text(text, encoding="utf-8", newline="\n")
        return str(path)

    return make


def test_the_nearest_are_those_of_the_smallest_angle_whatever_the_length_and_never_the_word_itself(file):
    found = glove(file()).nearest(["film", "dog", "new york"], 2)
    assert found == {"film": ["movie", "play"], "dog": ["cat", "new york"], "new york": ["play", "movie"]}


def test_a_title_case_word_is_looked_up_in_lower_case_and_its_neighbours_get_its_case(file):
    assert glove(file()).nearest(["Film", "Paris", "FILM"], 1) == {"Film": ["Movie"], "Paris": ["Film"], "FILM": ["movie"]}


def test_a_word_that_is_not_there_has_no_neighbours(file):
    assert glove(file()).nearest(["horse", "york"], 2) == {}


def test_more_words_than_fit_at_once_and_fewer_neighbours_than_wanted(file, monkeypatch):
    whole = glove(file()).nearest(["film", "dog", "cat"], 50)
    assert set(whole) == {"film", "dog", "cat"}
    monkeypatch.setattr(vectors, "CHUNK", 2)
    assert glove(file()).nearest(["film", "dog", "cat"], 50) == whole
    assert all(len(near) == 6 for near in whole.values())


def test_only_the_first_rows_of_a_file_are_read(file, monkeypatch):
    monkeypatch.setattr(vectors, "ROWS", 3)
    assert glove(file(FILE + "broken\n")).words == ["film", "movie", "play"]


def test_the_first_of_two_rows_for_a_word_counts(file):
    assert glove(file("a 1 0\nb 0 1\na 0 1\nc 1 1\n")).vectors.tolist()[:2] == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"vectors\.txt: the file is empty"),
        ("400000 50\nfilm 1 0\n", r"vectors\.txt, line 1: .* this is '400000 50'"),
        ("film 1 0\nmovie 1\n", r"vectors\.txt, line 2: .* this is 'movie 1'"),
        ("film 1 0\nmovie 1 much\n", r"vectors\.txt, line 2: .* this is 'movie 1 much'"),
    ],
)
def test_a_file_that_holds_no_vectors_is_refused_with_its_line(text, words, file):
    with pytest.raises(ValueError, match=words):
        glove(file(text))


def test_a_file_that_is_compressed_is_read_and_one_that_is_not_utf_8_is_refused_with_its_line(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(FILE.encode()))
    assert glove(str(tmp_path / "a.txt.gz")).nearest(["film"], 1) == {"film": ["movie"]}
    (tmp_path / "b.txt").write_bytes(b"film 1 0\ncaf\xe9 0 1\n")
    with pytest.raises(ValueError, match=r"b\.txt, line 2: the byte 0xe9 is not UTF-8"):
        glove(str(tmp_path / "b.txt"))


def test_a_file_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"word vectors none\.txt: no such file"):
        glove("none.txt")


def test_without_a_file_a_word_is_the_mean_of_its_pieces_and_its_neighbours_are_whole_words(make_words_tokenizer, words):
    weights = torch.zeros(len(words), 2)
    weights[:, 1] = -1
    for word, vector in {"play": (2, 0), "##ful": (0, 2), "good": (1, 0.8), "cat": (1, 0), "##ly": (1, 1), "3": (1, 1)}.items():
        weights[words.index(word)] = torch.tensor(vector)
    found = input_embeddings(weights, make_words_tokenizer()).nearest(["playful"], 2)  # (1, 1)
    assert found["playful"][0] == "good"
    assert found["playful"][1] in ("cat", "play")
