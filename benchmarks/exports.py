"""Every student in every format: `python benchmarks/exports.py docs_topic sst2 --out exports --steps 300 glue=<folder>`.

For each task it trains a student of every method at scale demo, for so many updates a stage (enough to answer, too few to be
good), and exports it as `python -m kd_lightning.export --int8 --openvino` does. A format that changes more answers than
`--tolerance` is left out. Printed and written to `exports.md` are the size, the task's metric, the share of answers that are
no longer PyTorch's, and the milliseconds for one text and for 32: the fastest tenth. What is trained already is not trained
again; `--train` stops there, so that the clock can be left to a quiet machine.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from kd_lightning.compare import find, markdown
from kd_lightning.export import export, table
from kd_lightning.export_check import Figures
from kd_lightning.run.report import show

ROOT = Path(__file__).resolve().parents[1]
METHODS = ["tinybert", "distilbert", "mobilebert", "adabert", "bilstm", "cnn", "bow"]
SMALL = {"adabert": ["student.channels=32", "student.cells=2"]}  # so that its search is short
FORMS = ["onnx", "int8", "openvino"]


def train(task: str, method: str, steps: int, settings: list[str], out: Path) -> None:
    words = [f"method={method}", "stage=task", f"task={task}", f"trainer.max_steps={steps}", *SMALL.get(method, [])]
    command = [sys.executable, "train.py", *words, f"artifacts={out / 'artifacts'}", f"cache={out / 'cache'}", *settings]
    subprocess.run(command, cwd=ROOT, check=True)


def formats(artifact: Path, out: Path, settings: list[str], tolerance: float) -> tuple[dict[str, Figures], list[str]]:
    """The figures of each format, and what is said of those that are left out."""
    forms, said = list(FORMS), []
    while True:
        try:
            return export(artifact, out, forms, settings, tolerance), said
        except ValueError as error:
            form = str(error).partition(":")[0]
            if form not in forms or form == "onnx":
                raise
            forms.remove(form)
            said.append(str(error).partition(",")[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", metavar="task or setting", help="tasks of conf/task; settings of train.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of the artifacts, the exports and the table")
    parser.add_argument("--steps", type=int, default=300, help="updates of each stage")
    parser.add_argument("--tolerance", type=float, default=0.02, help="share of answers that may change (0.02)")
    parser.add_argument("--train", action="store_true", help="export nothing")
    chosen = parser.parse_intermixed_args()
    out = chosen.out.resolve()
    settings = [word for word in chosen.words if "=" in word]
    tasks = [word for word in chosen.words if "=" not in word]
    for task in tasks:
        for method in METHODS:
            train(task, method, chosen.steps, settings, out)
    if chosen.train:
        return
    data, rows, notes = [word for word in settings if word.startswith(("glue=", "task."))], [], []
    for result in find([str(out / "artifacts")]):
        record = result.record
        if record.stage not in ("task", "prediction") or record.task.name not in tasks:
            continue
        folder = out / "exports" / record.task.name / record.method
        found, said = formats(result.folders[0], folder, data, chosen.tolerance)
        about = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        named = {"task": record.task.name, "student": record.method, "tokens": str(about["length"])}
        rows += [named | line for line in table(found, "score")]
        notes += [f"{record.method} on {record.task.name}, {sentence}" for sentence in said]
    show(rows, f"{about['threads']} threads; ms: the fastest tenth (median)")
    for note in notes:
        print(note)
    (out / "exports.md").write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
