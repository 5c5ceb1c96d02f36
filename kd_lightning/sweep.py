"""What a sweep or a search has found up to now: `python -m kd_lightning.sweep <folder>`. Status 1 if a job failed, runs yet or
was killed. A job that had not begun when the sweep was killed has left no trace and is not counted.

A sweep that was killed goes on with the same command and `hydra.sweep.dir=<folder>`: what is there already is taken.
"""

import argparse
import sys
from pathlib import Path

from kd_lightning.run.shown import printable
from kd_lightning.run.sweep import summarise


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_lightning.sweep", description="What a sweep has found up to now.")
    parser.add_argument("folder", type=Path, help="hydra.sweep.dir of a multirun, or the folder of a search")
    given = parser.parse_args()
    try:
        well = summarise(given.folder)
    except (ValueError, OSError) as error:
        sys.exit(printable(f"sweep: {error}"))
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
