"""Files as text, whatever their compression; what is no such file is refused in a sentence."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row | ValueError]]  # (place in its file, the row by column or what is wrong with it)

HEAD = 1 << 16  # bytes at a file's beginning that say what it is
COMPRESSED = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
SIGNS = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\x00", ".bz2": b"BZh"}  # how they begin
POINTER = b"version https://git-lfs.github.com/spec"
OTHER = (  # how a file begins that is no text, what it is and what to do with it
    (b"PK\x03\x04", "a zip file or a spreadsheet", "Unpack it, or save the sheet as CSV."),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet or another office file", "Save the sheet as CSV."),
    (b"PAR1", "a Parquet file", "Let its name end in .parquet."),
    (b"\x1f\x8b", "compressed with gzip", "Let its name end in .gz."),
    (b"\xfd7zXZ\x00", "compressed with xz", "Let its name end in .xz."),
    (b"BZh91AY&SY", "compressed with bzip2", "Let its name end in .bz2."),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it: unzstd."),
)
UNICODE = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"))
UNICODE = (*UNICODE, (codecs.BOM_UTF16_BE, "UTF-16"))


def endings(path: str | Path) -> tuple[str, str]:
    """The suffix that names the format and that of the compression around it, in lower case, either may be empty:
    (".csv", ".gz") of `Rows.CSV.gz`."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSED else ""
    return (suffixes[-1] if suffixes else ""), compression


def format_of(path: str | Path, what: str, possible: list[str], remedy: str = "Rename it.") -> str:
    """The suffix of a file's format; raises ValueError where it is none of those possible. what: the setting that names it.
    remedy: what to do then."""
    suffix = endings(path)[0]
    if suffix not in possible:
        raise ValueError(
            f"{what}: {path} ends in none of {', '.join(possible)} (or one of these before {', '.join(COMPRESSED)}), so its "
            f"format is unknown. {remedy}"
        )
    return suffix


def stamp(file: str | Path) -> tuple[int, int]:
    """A file's size in bytes and when it was changed, in nanoseconds: they tell an edited one from the one that was read."""
    about = os.stat(file)
    return about.st_size, about.st_mtime_ns


def readable(text: str) -> bool:
    """Whether all of it was UTF-8: a byte that is not has become a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def unreadable(text: str) -> str:
    """What is wrong with a text that is not readable, and what to do."""
    code = next(ord(letter) for letter in text if "\ud800" <= letter <= "\udfff")
    if not 0xDC80 <= code <= 0xDCFF:
        return f"\\u{code:04x} is half of a character. Write the whole one."
    return (
        f"the byte 0x{code - 0xDC00:02x} is not UTF-8. If the file is Latin-1, convert it: iconv -f latin1 -t utf-8 <file> > "
        "<new file>."
    )


@contextmanager
def binary(path: str | Path) -> Iterator[BinaryIO]:
    """A file's bytes, uncompressed; of standard input for "-"."""
    if path != "-" and Path(path).is_dir():
        raise ValueError(f"{path} is a folder, and a file is wanted. Name the files in it.")
    compression = endings(path)[1]
    with open(0 if path == "-" else path, "rb", HEAD, closefd=path != "-") as raw:
        head = raw.peek(HEAD)
        if head.startswith(POINTER):
            raise ValueError(f"{path} is a git-lfs pointer and not the file itself. Fetch it: git lfs pull.")
        if not head:
            raise ValueError(f"{path} has no content: there are no rows in it. Give a file that is not empty.")
        if compression and not head.startswith(SIGNS[compression]):
            raise ValueError(
                f"{path} ends in {compression}, and its content is not compressed so (it begins with the bytes "
                f"{head[:8].hex(' ')}). Give it the ending of what it is."
            )
        if not compression:
            yield raw
            return
        try:
            with COMPRESSED[compression](raw) as unpacked, io.BufferedReader(unpacked, HEAD) as file:
                yield file
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise ValueError(f"{path} is damaged or not all there ({error}). Fetch it again.") from error


@contextmanager
def text(path: str | Path, newline: str) -> Iterator[TextIO]:
    """A file's text, with bytes that are not UTF-8 let through (`readable`): one of them is one bad row.

    newline: as of `open`; where it is "\\n" and a file's lines end in a carriage return alone, they end there.
    """
    with binary(path) as file:
        head = file.peek(HEAD)
        if not head:
            raise ValueError(f"{path} has no content: there are no rows in it. Give a file that is not empty.")
        _refuse(path, head)
        only_returns = newline == "\n" and b"\r" in head and b"\n" not in head
        with io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", "\r" if only_returns else newline) as lines:
            yield lines


def _refuse(path: str | Path, head: bytes) -> None:
    for sign, what, remedy in OTHER:
        if head.startswith(sign):
            raise ValueError(f"{path} is {what} and not text. {remedy}")
    found = next((name for mark, name in UNICODE if head.startswith(mark)), None)
    if found is None:  # no mark: of Latin letters every other byte is zero
        halves = {"UTF-16BE": head[:1000:2], "UTF-16LE": head[1:1000:2]}
        found = next((name for name, half in halves.items() if half.count(0) > 0.4 * len(half)), None)
    if found is not None:
        raise ValueError(
            f"{path}, line 1: its first bytes, {head[:4].hex(' ')}, are {found}, and UTF-8 is wanted. Convert it: iconv -f "
            f"{found} -t UTF-8 <file> > <new file>."
        )
