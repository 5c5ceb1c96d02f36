"""What a killed run leaves behind, and the next one removes."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kd_lightning.keep import writing

BEGUN = ".begun"  # beside an artifact while it is trained: by which launch
REHEARSED = "unfinished-"  # the folder of a rehearsal: this, the host and the process


def tidy(artifact: Path, *, done: bool) -> None:
    """Remove what lies beside an artifact of which this process holds the lock. done: with its checkpoints."""
    for path in remains(artifact, done=done):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remains(artifact: Path, *, done: bool) -> list[Path]:
    """What nobody needs who does not work on the artifact at this moment."""
    beside = artifact.parent.iterdir() if artifact.parent.is_dir() else ()
    names = [f"{artifact.name}{suffix}" for suffix in (BEGUN, ".unfinished", *([".lock"] if done else []))]
    found = [path for path in beside if path.name in names or path.name.startswith(f"{artifact.name}.unfinished-")]
    work = Path(f"{artifact}.run")
    checkpoints = [work / "checkpoints"] if done else work.glob("checkpoints/*.unfinished")
    return [*found, *(path for path in checkpoints if path.exists())]


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A folder there for as long as this lasts. Those of processes of this host that are no more are removed."""
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    mine = f"{REHEARSED}{socket.gethostname()}-"
    place = parent / f"{mine}{os.getpid()}"
    for other in parent.glob(f"{mine}*"):
        if not _alive(other.name.removeprefix(mine)):
            shutil.rmtree(other, ignore_errors=True)
    with writing(place):
        try:
            place.mkdir(parents=True, exist_ok=True)
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
            for folder in made:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True
