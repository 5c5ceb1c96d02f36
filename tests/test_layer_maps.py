import pytest

from kd_lightning.layer_maps import resolve, resolve_copy


@pytest.mark.parametrize(
    ("name", "student", "teacher", "layers"),
    [
        ("uniform", 4, 12, [3, 6, 9, 12]),
        ("uniform", 6, 12, [2, 4, 6, 8, 10, 12]),
        ("top", 4, 12, [9, 10, 11, 12]),
        ("bottom", 4, 12, [1, 2, 3, 4]),
        ("hf_official", 6, 12, [1, 3, 5, 8, 10, 12]),
        ("alternate", 6, 12, [1, 3, 5, 7, 9, 11]),
        ("uniform", 3, 3, [1, 2, 3]),
    ],
)
def test_a_named_map_is_the_papers(name, student, teacher, layers):
    assert resolve(name, student, teacher) == list(enumerate(layers, start=1))
    assert resolve_copy(name, student, teacher) == layers


def test_last_pairs_only_the_last_layers():
    assert resolve("last", 3, 12) == [(3, 12)]


def test_named_pairs_are_taken_as_they_are():
    assert resolve([[1, 2], [2, 5]], 2, 6) == [(1, 2), (2, 5)]
    assert resolve([[0, 0], [2, 1]], 2, 6, lowest=0) == [(0, 0), (2, 1)]
    assert resolve([[2, 5], [1, 5]], 2, 6) == [(2, 5), (1, 5)]


def test_layers_to_copy_are_taken_as_they_are():
    assert resolve_copy([1, 3, 12], 3, 12) == [1, 3, 12]


@pytest.mark.parametrize(
    ("layers", "student", "teacher", "lowest", "words"),
    [
        ("uniform", 5, 12, 1, r"12 teacher layers do not divide over 5 student layers.*Name the pairs instead"),
        ("hf_official", 3, 12, 1, r"made for 6 student and 12 teacher layers, not 3 and 12.*uniform or alternate"),
        ("uniformly", 3, 12, 1, r"layer map 'uniformly' is unknown: choose one of uniform, top, bottom, last"),
        ("top", 6, 4, 1, r"layer pair \[1,-1\]: the student has layers 1\.\.6 and the teacher 1\.\.4\.$"),
        ("bottom", 6, 4, 1, r"layer pair \[5,5\]"),
        ("alternate", 3, 4, 1, r"layer pair \[3,5\]"),
        ([[1, 9]], 3, 4, 0, r"layer pair \[1,9\].*layers 0\.\.3 and the teacher 0\.\.4 \(0 is the embedding output\)"),
        ([[0, 0]], 3, 4, 1, r"layer pair \[0,0\]: the student has layers 1\.\.3"),
        ([[4, 1]], 3, 4, 1, r"layer pair \[4,1\]"),
        ([[1, 1], [1, 2]], 3, 4, 1, r"layer map \[\[1, 1\], \[1, 2\]\]: a student layer appears twice"),
        ([], 3, 4, 1, r"a list of pairs \[student, teacher\] is wanted"),
        ([1, 2], 3, 4, 1, r"layer map \[1, 2\]: a list of pairs"),
        ([[1, 2, 3]], 3, 4, 1, r"a list of pairs"),
    ],
)
def test_an_impossible_map_is_refused_in_a_sentence(layers, student, teacher, lowest, words):
    with pytest.raises(ValueError, match=words):
        resolve(layers, student, teacher, lowest)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([1, 2], r"layers to copy \[1, 2\]: 2 teacher layers are listed for 3 of the student"),
        ([1, 2, 2], r"must increase and lie in 1\.\.6"),
        ([3, 2, 1], r"must increase"),
        ([0, 1, 2], r"must increase and lie in 1\.\.6 \(1 is the teacher's first layer\)"),
        ([1, 2, 7], r"lie in 1\.\.6"),
        ("last", r"1 teacher layers are listed for 3 of the student"),
    ],
)
def test_an_impossible_copy_is_refused_in_a_sentence(layers, words):
    with pytest.raises(ValueError, match=words):
        resolve_copy(layers, 3, 6)
