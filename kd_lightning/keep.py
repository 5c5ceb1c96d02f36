"""What is kept is whole or not there at all: made beside its place, moved there when it is done, by one process at a time, and
held against its checksums before it is used.

Beside a `<place>` may lie, while somebody works on it, `<place>.lock` and `<place>.unfinished...`; nothing else ever does.
"""

import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from kd_lightning import manifest

POLL = 0.2  # seconds between two looks at a lock that is taken
WHY = {  # of what cannot be written
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is used up",
    errno.EROFS: "the folder can only be read",
    errno.EACCES: "you have no right to write there",
    errno.EPERM: "you have no right to write there",
    errno.ENOSYS: "its file system knows no locks",
    errno.ENOTDIR: "a file lies where a folder should be",
    errno.EEXIST: "a file lies where a folder should be",
    errno.EISDIR: "a folder lies where a file should be",
}


@contextmanager
def lock(place: Path) -> Iterator[None]:
    """Let one process at a time work on place, which need not exist; a second one says for whom it waits, and waits.

    The lock of a process that died is free at once. A thread that holds the lock may take it again.
    """
    file = Path(f"{place}.lock")
    with writing(place):
        held = FileLock(file, is_singleton=True, on_acquired=_sign, poll_interval=POLL)
        try:
            held.acquire(timeout=POLL)
        except Timeout:
            print(f"{place}: {_holder(file)} is working on it; this one waits until it is done.", flush=True)
            held.acquire()
    try:
        yield
    finally:
        if held.lock_counter == 1:  # safe while it is held: who has opened this file already sees that it is gone, and retries
            file.unlink(missing_ok=True)
        held.release()


def keep(place: Path, make: Callable[[Path], object]) -> Path:
    """Return the folder place, which make(scratch) has made as a folder at the path scratch.

    It is made if it is not there, and made again, which is said, if one of its files is not what its manifest.json says.
    All of it is read for that: SHA-256 takes a fraction of what any use of it takes.
    make may put what it needs for itself meanwhile at f"{scratch}-<name>".
    """

    def whole(scratch: Path) -> None:
        make(scratch)
        manifest.write(scratch)

    with writing(place):
        there = place.exists()
    if there and (damage := _damage(place)):
        print(damage, flush=True)
    if not there or damage:
        with lock(place):
            if not place.exists() or _damage(place):  # another process may have been faster
                replace(place, whole)
    return place


def _damage(place: Path) -> str | None:
    """What is wrong with a folder that was kept; None where it is as it was written."""
    remedy = "It is made again."
    if not (place / manifest.FILE).is_file():
        return f"{place / manifest.FILE} is missing, so nothing tells whether {place.name} is whole. {remedy}"
    try:
        manifest.check(place, remedy)
    except ValueError as damage:
        return str(damage)
    return None


def replace(place: Path, make: Callable[[Path], object]) -> None:
    """Let make(scratch) make place anew, a file or a folder: it stays as it was until what make has made is whole."""
    with lock(place), writing(place):
        scratch = Path(f"{place}.unfinished")
        _sweep(scratch)  # of a run that was killed
        try:
            make(scratch)
            if place.is_dir() and scratch.is_dir():
                os.replace(place, f"{scratch}-old")
            os.replace(scratch, place)
        finally:
            _sweep(scratch)


def _sweep(scratch: Path) -> None:
    for path in list(scratch.parent.iterdir()):
        if path.name == scratch.name or path.name.startswith(f"{scratch.name}-"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _sign(file: int) -> None:
    with suppress(OSError):  # a lock without a name in it is a lock
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)


def _holder(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"


class writing:
    """Says in a sentence why place cannot be written, also where a library has put its own error around the system's."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        cause = error
        while cause is not None and not isinstance(cause, ValueError):
            if isinstance(cause, OSError) and cause.errno in WHY and self._ours(cause.filename):
                change = f"{WHY[cause.errno]}. Change that or choose another folder (cache=, artifacts=, --out)."
                raise ValueError(f"{self.place} cannot be written: {change}") from error
            cause = cause.__cause__

    def _ours(self, name: str | bytes | int | None) -> bool:
        """Whether a failure there is one to write place; files that are read have other names."""
        if not isinstance(name, str):
            return True
        mine, path = os.path.abspath(self.place), os.path.abspath(name)
        return f"{path}{os.sep}".startswith((f"{mine}.", f"{mine}{os.sep}")) or mine.startswith(f"{path}{os.sep}")
