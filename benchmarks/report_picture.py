"""A picture of a report: `python benchmarks/report_picture.py report.html`, with headless Chromium."""

import argparse
import subprocess
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("page", type=Path)
parser.add_argument("--out", type=Path, default=Path("benchmarks/results/report.png"))
parser.add_argument("--size", default="1120,1000", help="width,height in pixels")
given = parser.parse_args()
words = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={given.size}"]
subprocess.run(
    ["chromium", *words, f"--screenshot={given.out.resolve()}", given.page.resolve().as_uri()], check=True, capture_output=True
)
