"""A page to look at: `python -m kd_lightning.report artifacts --out report.html`.

One file that opens without a network and fetches nothing: models and their Pareto front, the bootstrap with Holm's
correction, confusion, calibration, agreement, the rows where student and teacher differ most, sweeps, the chain, its curves.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

from kd_lightning.run.shown import printable

SETTING = "where the tasks' data are, as for train.py, for the texts of the rows: glue=<folder>"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_lightning.report", description="A page to look at.")
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="artifacts, runs or sweeps, or folders of them")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING", help=SETTING)
    chosen = parser.parse_args()
    if missing := [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]:
        sys.exit(f"report: {' and '.join(missing)} cannot be imported; pip install -e '.[report]' installs what it needs.")
    from transformers.utils.logging import disable_progress_bar

    from kd_lightning.report.collect import material
    from kd_lightning.report.page import page

    disable_progress_bar()  # loading takes no time
    try:
        chosen.out.write_text(page(material(chosen.paths), chosen.set), encoding="utf-8")
    except (ValueError, OSError) as error:
        sys.exit(printable(f"report: {error}"))
    print(printable(f"{chosen.out}: {chosen.out.stat().st_size:,} bytes"))


if __name__ == "__main__":
    main()
