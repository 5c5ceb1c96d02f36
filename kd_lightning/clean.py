"""Make room: `python -m kd_lightning.clean --older-than 30`; with `--dry-run` it only says what it would remove.

Removed is what nobody has written or read for so many days and what can be had again: `<artifact>.run` (curves, checkpoints)
of a stage that has left its artifact, and entries of the cache. A stage that was interrupted can be gone on with
(ckpt_path=last) and stays unless `--unfinished` is said. Artifacts are never removed, and nothing that somebody works on.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from kd_lightning.run import record
from kd_lightning.run.shown import printable

DAY = 24 * 60 * 60  # seconds
RUN = ".run"  # after the name of an artifact


def stale(artifacts: Path, cache: Path, unfinished: bool) -> Iterator[tuple[Path, Path]]:
    """What may be removed, and the place whose lock says whether somebody works on it."""
    for work in sorted(artifacts.rglob(f"*{RUN}")):
        artifact = work.with_name(work.name.removesuffix(RUN))
        done = all((artifact / name).is_file() for name in (record.FILE, record.METRICS))
        if work.is_dir() and not work.is_symlink() and (done or unfinished):
            yield work, artifact
    for entry in sorted(cache.iterdir()) if cache.is_dir() else ():
        if not entry.name.endswith(".lock"):
            yield entry, entry.with_name(entry.name.partition(".unfinished")[0])


def newest(path: Path) -> float:
    """When something in it was written or read last, in seconds since 1970. Folders do not count: looking reads them."""
    files = [file.lstat() for file in (path, *path.rglob("*")) if not file.is_dir()]
    return max((max(file.st_mtime, file.st_atime) for file in files), default=path.lstat().st_mtime)


def megabytes(path: Path) -> float:
    return sum(file.lstat().st_size for file in (path, *path.rglob("*")) if not file.is_dir()) / 1e6


def clean(artifacts: Path, cache: Path, days: float, *, unfinished: bool, dry_run: bool) -> Iterator[tuple[Path, float]]:
    """Remove what nobody has used for so many days; yields each with its megabytes."""
    for path, place in stale(artifacts, cache, unfinished):
        if time.time() - newest(path) < days * DAY:
            continue
        held = FileLock(f"{place}.lock")
        try:
            held.acquire(timeout=0)
        except Timeout:  # somebody works on it
            continue
        try:
            size = megabytes(path)
            if not dry_run:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        finally:
            Path(held.lock_file).unlink(missing_ok=True)
            held.release()
        yield path, size


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_lightning.clean", description="Remove what can be had again.")
    parser.add_argument("--older-than", type=float, required=True, metavar="DAYS", help="nobody has used it for so long")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--cache", type=Path, default=Path(".cache/kd-lightning"))
    parser.add_argument("--unfinished", action="store_true", help="interrupted stages too, which then begin anew")
    parser.add_argument("--dry-run", action="store_true", help="say only what would be removed")
    given = parser.parse_args()
    choice = {"unfinished": given.unfinished, "dry_run": given.dry_run}
    total, number = 0.0, 0
    if not given.artifacts.is_dir():
        sys.exit(printable(f"clean: {given.artifacts} is no folder. Say with --artifacts where the artifacts lie."))
    try:
        for path, size in clean(given.artifacts, given.cache, given.older_than, **choice):
            print(printable(f"{path}: {size:.1f} MB"))
            total, number = total + size, number + 1
    except OSError as error:
        sys.exit(printable(f"clean: {error}"))
    print(f"{number} {'would be' if given.dry_run else 'are'} removed, {total:.1f} MB.")


if __name__ == "__main__":
    main()
