"""What a file is: by its name, by how it begins, and what is said of one that is something else."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest

from kd_lightning.data import files
from kd_lightning.data.files import endings, format_of, readable, unreadable


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", (".csv", "")),
        ("A.CSV.GZ", (".csv", ".gz")),
        ("v1.2/a.b.Tsv.xz", (".tsv", ".xz")),
        ("a.json.bz2", (".json", ".bz2")),
        ("a.gz", ("", ".gz")),
        ("a.gz.txt", (".txt", "")),
        ("a", ("", "")),
    ],
)
def test_the_compression_is_taken_off_first_and_case_does_not_count(name, expected):
    assert endings(name) == expected


@pytest.mark.parametrize("name", ["a.xlsx", "a.csv.zip", "a.gz", "a"])
def test_an_unknown_suffix_is_refused_with_those_that_are_known(name):
    with pytest.raises(ValueError, match=rf"task\.files: {name} ends in none of \.csv, \.tsv .*before \.gz, \.xz, \.bz2\)"):
        format_of(name, "task.files", [".csv", ".tsv"])


def read(path) -> list[str]:
    with files.text(path, "\n") as lines:
        return list(lines)


@pytest.mark.parametrize(
    ("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".XZ", lzma.compress), (".bz2", bz2.compress)]
)
def test_the_text_of_a_compressed_file_is_that_of_the_plain_one_without_its_mark(ending, pack, tmp_path):
    path = tmp_path / f"a.txt{ending}"
    path.write_bytes(pack("\ufeffzwei Füße\nrot\r\n".encode()))
    assert read(path) == ["zwei Füße\n", "rot\r\n"]


@pytest.mark.parametrize(("content", "count"), [(b"a\rb\rc", 3), (b"a\r\nb\r\n", 2), (b"a\rb\nc\n", 2)])
def test_lines_may_end_in_a_carriage_return_alone_where_all_do(content, count, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    assert len(read(tmp_path / "a.txt")) == count


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("sheet.xml", "<a/>")
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"", "a.txt has no content"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), "a.txt.gz has no content"),
        ("a.txt.gz", b"not gzip\n", "ends in .gz, and its content is not .* the bytes 6e 6f 74"),
        ("a.txt.xz", gzip.compress(b"w5\n", mtime=0), "ends in .xz, and its content is not"),
        ("a.txt.gz", gzip.compress(bytes(range(256)) * 9, mtime=0)[:-9], "a.txt.gz is damaged or not all there"),
        ("a.txt.bz2", bz2.compress(b"w5\n" * 999)[:-9], "a.txt.bz2 is damaged or not all there"),
        ("a.txt.xz", lzma.compress(b"w5\n" * 999)[:-9], "a.txt.xz is damaged or not all there"),
        ("a.txt", gzip.compress(b"w5\n", mtime=0), "a.txt is compressed with gzip and not text. Let its name end in .gz"),
        ("a.csv", zipped(), "a.csv is a zip file or a spreadsheet and not text. Unpack it, or save the sheet as CSV"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "a git-lfs pointer .* git lfs pull"),
        ("a.csv.gz", b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "a git-lfs pointer"),
        ("a.csv", "text\nw5\n".encode("utf-16"), "line 1: its first bytes, ff fe .*, are UTF-16, .* iconv -f UTF-16 -t UTF-8"),
        ("a.csv", "text\nw5\n".encode("utf-16-le"), "are UTF-16LE, and UTF-8 is wanted"),
        ("a.csv", "text\nw5\n".encode("utf-16-be"), "are UTF-16BE, and UTF-8 is wanted"),
        ("a.csv", "text\nw5\n".encode("utf-32"), "are UTF-32, and UTF-8 is wanted"),
    ],
)
def test_what_is_no_text_is_refused_in_a_sentence(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read(tmp_path / name)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder, and a file is wanted"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["", "plain", "Füße", "漢字 😀"])
def test_text_of_any_language_is_readable(text):
    assert readable(text)


def test_the_byte_that_is_not_utf_8_is_named():
    found = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert not readable(found)
    assert unreadable(found).startswith("the byte 0xe9 is not UTF-8. If the file is Latin-1, convert it: iconv -f latin1")
    assert "half of a character" in unreadable("\ud83d")
