"""`manifest.json`: the size and the SHA-256 of each file of an artifact or of what is kept under cache=.

It tells what has been truncated, altered or lost. It does not tell who made the files: whoever changes one can write another
manifest.
"""

import hashlib
import json
from pathlib import Path

FILE = "manifest.json"
FOR_PEOPLE = ("README.md", "table.csv", "table.json")  # which may be edited
CODE = ".py"  # of a kind of model, for who trusts it: nothing of ours reads it
MOST = 1_000_000  # bytes
AGAIN = "Run the stage again, or copy the artifact again from where it came."


def write(folder: Path) -> None:
    """Write it, as the last file of a folder that is not yet in its place."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix != CODE]
    files = [file for file in files if file.name not in (*FOR_PEOPLE, FILE)]
    about = {file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": _digest(file)} for file in files}
    (folder / FILE).write_text(json.dumps({"files": about}, indent=1) + "\n", encoding="utf-8")


def check(folder: Path, remedy: str = AGAIN) -> None:
    """Raises ValueError for the first file that is missing or not as it was written, with the remedy at its end. A folder
    without manifest.json, such as a plain Hugging Face model's, has nothing to be held against."""
    if not (folder / FILE).is_file():
        return
    for name, (size, digest) in _read(folder / FILE, remedy).items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{file} is missing, and {FILE} names it. {remedy}")
        if (there := file.stat().st_size) != size:
            raise ValueError(f"{file} has {there:,} bytes in place of {size:,}. {remedy}")
        if _digest(file) != digest:
            raise ValueError(f"{file} is not what {FILE} says of it: it was altered or damaged. {remedy}")


def _read(file: Path, remedy: str) -> dict[str, tuple[int, str]]:
    """name -> bytes and SHA-256. A name is that of a file in this very folder or below it."""
    damaged = f"{file} is damaged: it does not say of files their bytes and sha256. {remedy}"
    try:
        with file.open("rb") as opened:
            found = json.loads(opened.read(MOST))
        about = {name: (entry["bytes"], entry["sha256"]) for name, entry in found["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(damaged) from error
    for name, (size, digest) in about.items():
        if not isinstance(size, int) or not isinstance(digest, str):
            raise ValueError(damaged)
        if {"", ".", ".."} & set(name.split("/")) or "\\" in name or not name.isprintable():
            raise ValueError(f"{file} names {ascii(name)[:60]}, which is no file of this folder. {remedy}")
    return about


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
