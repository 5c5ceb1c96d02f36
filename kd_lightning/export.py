"""A student as a file that runs without PyTorch: `python -m kd_lightning.export <artifact> [--int8] [--openvino]`.

Written is a folder, whole or not at all: model.onnx, with --int8 model.int8.onnx, with --openvino openvino_model.xml and .bin,
tokenizer.json, which also cuts and pads, and export.json with labels, inputs, opset, versions and figures. The figures are
measured on the task's validation rows: how many answers are no longer PyTorch's, how far the logits are, the task's metric from
the exported file, and how long one text and 32 take. They stand in the artifact's card too.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from kd_lightning import export_onnx, manifest
from kd_lightning.export_check import BATCHES, Figures, answers, changed, clocked, score, validation
from kd_lightning.exported import ABOUT, ATTRIBUTES, FILES, TOKENIZER, Exported
from kd_lightning.keep import replace, writing
from kd_lightning.predict import Classifier
from kd_lightning.run.card import BEGIN, END
from kd_lightning.run.reading import made_by
from kd_lightning.run.report import show
from kd_lightning.run.shown import printable

TOLERANCE = 0.02
NOTABLE = 1.1  # times as long as float32: what is measured within a tenth is alike
SETTING = "where the task's data are, as for train.py: glue=<folder>, task.files.train=mine.csv"
NEEDED = {"onnx": ("onnxruntime", "onnxscript"), "int8": ("onnxruntime", "onnx"), "openvino": ("openvino",)}
PARTS = {"onnx": ["model.onnx"], "int8": ["model.int8.onnx"], "openvino": ["openvino_model.xml", "openvino_model.bin"]}
EXTRA = {"onnx": "export", "int8": "export", "openvino": "openvino"}


def export(artifact: Path, out: Path, forms: Sequence[str], settings: Sequence[str], tolerance: float) -> dict[str, Figures]:
    """Write the folder; returns the figures of PyTorch and of each form. settings: of the task's data.

    Raises ValueError, and leaves what was there, where a form changes more answers than tolerance, a share.
    """
    for form in forms:
        for package in NEEDED[form]:
            if importlib.util.find_spec(package) is None:
                raise ValueError(f"{form}: {package} is wanted and not installed. Run pip install -e '.[{EXTRA[form]}]'.")
    task = made_by(artifact).task
    classifier = Classifier(artifact)
    classifier.model.cpu()
    texts, labels = validation(artifact, task, classifier, settings)
    theirs = classifier.logits(texts)
    found: dict[str, Figures] = {}

    def write(scratch: Path) -> None:
        scratch.mkdir()
        names = classifier.tokenizer(*texts[0])
        inputs = [name for name in ATTRIBUTES if name in names or name == "attention_mask"]
        tokenizer(classifier.tokenizer, task.max_length).save(str(scratch / TOKENIZER))
        known = {"labels": classifier.labels, "inputs": inputs, "text": len(task.text), "max_length": task.max_length}
        known["opset"] = export_onnx.onnx(classifier.model, inputs, scratch / FILES["onnx"])
        (scratch / ABOUT).write_text(json.dumps(known | {"length": 1}), encoding="utf-8")
        for form, convert in (("int8", export_onnx.int8), ("openvino", export_onnx.openvino)):
            if form in forms:
                convert(scratch / FILES["onnx"], scratch / FILES[form])
        exports = {form: Exported(scratch, form, torch.get_num_threads()) for form in forms}
        known["length"], measured = clocked(classifier, exports, texts)
        size = sum(tensor.nbytes for tensor in classifier.model.state_dict().values())
        found["pytorch"] = Figures(size / 1e6, 0.0, 0.0, score(task, theirs, labels), measured["pytorch"])
        for form, exported in exports.items():
            ours, distance = answers(exported, texts, theirs)
            share = float(changed(ours, theirs).float().mean())
            if share > tolerance:
                raise ValueError(
                    f"{form}: {share:.2%} of the answers to {len(texts):,} validation rows are not PyTorch's, and --tolerance "
                    f"{tolerance:g} allows {tolerance:.2%}. Leave this format out, or allow more."
                )
            size = sum((scratch / name).stat().st_size for name in PARTS[form])
            found[form] = Figures(size / 1e6, share, distance, score(task, ours, labels), measured[form])
        about = {"task": task.name, "metric": task.monitor, "rows": len(texts), "threads": torch.get_num_threads()}
        packages = {package for form in forms for package in NEEDED[form]} | {"torch", "transformers"}
        about["versions"] = {package: importlib.metadata.version(package) for package in sorted(packages)}
        about["figures"] = {form: _plain(figures) for form, figures in found.items()}
        (scratch / ABOUT).write_text(json.dumps(known | about, indent=1) + "\n", encoding="utf-8")
        manifest.write(scratch)

    replace(out, write)
    return found


def tokenizer(given: PreTrainedTokenizerBase, max_length: int) -> Tokenizer:
    """The same as a file of the tokenizers library that cuts a text and pads a batch by itself."""
    if not given.is_fast:
        raise ValueError(f"{type(given).__name__}: this tokenizer has no tokenizer.json, and no export without one.")
    made = Tokenizer.from_str(given.backend_tokenizer.to_str())
    made.enable_truncation(max_length, direction=given.truncation_side)
    made.enable_padding(pad_id=given.pad_token_id, pad_token=given.pad_token)
    return made


def _plain(figures: Figures) -> dict[str, Any]:
    clock = {f"milliseconds (batch {size})": {"low": t.low, "median": t.median} for size, t in figures.times.items()}
    rest = {"megabytes": figures.megabytes, "changed": figures.changed, "distance": figures.distance, "score": figures.score}
    return {name: round(value, 6) for name, value in rest.items()} | clock


def table(found: dict[str, Figures], name: str) -> list[dict[str, str]]:
    """name: of the task's metric."""
    return [
        {
            "format": form,
            "MB": f"{figures.megabytes:.2f}",
            name: f"{figures.score:.4f}",
            "changed": "" if form == "pytorch" else f"{figures.changed:.2%}",
            "logits": "" if form == "pytorch" else f"{figures.distance:.1e}",
            **{f"ms x {size}": f"{t.low:.2f} ({t.median:.2f})" for size, t in figures.times.items()},
        }
        for form, figures in found.items()
    ]


def slower(found: dict[str, Figures]) -> list[str]:
    """A sentence for each format that answers more slowly than ONNX float32."""
    said = []
    for form, figures in found.items():
        ratios = {size: figures.times[size].low / found["onnx"].times[size].low for size in BATCHES}
        if form not in ("pytorch", "onnx") and max(ratios.values()) > NOTABLE:
            listed = " and ".join(f"{ratio:.1f} times as long at batch {size}" for size, ratio in ratios.items())
            said.append(f"{form} is slower than float32 in ONNX Runtime here: it takes {listed}.")
    return said


def into_card(card: Path, lines: list[dict[str, str]], caption: str) -> None:
    """Put the table at the end of a card, in place of that of an earlier export."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    before, _, rest = text.partition(BEGIN)
    cells = [list(lines[0]), ["---"] * len(lines[0]), *(list(line.values()) for line in lines)]
    made = "".join(f"| {' | '.join(row)} |\n" for row in cells)
    part = f"{BEGIN}\n\n## Exported\n\n{made}\n{caption}\n\n{END}\n"
    with writing(card):
        card.write_text(f"{before.rstrip()}\n\n{part}{rest.partition(END)[2].lstrip()}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_lightning.export", description="A student without PyTorch: ONNX.")
    parser.add_argument("artifact", type=Path, help="the folder that stage=task left")
    parser.add_argument("--int8", action="store_true", help="also with weights of eight bits")
    parser.add_argument("--openvino", action="store_true", help="also for OpenVINO")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help=f"share of validation answers that may change ({TOLERANCE})"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING", help=SETTING)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write there; by default <artifact>/onnx, and into its card")
    chosen = parser.parse_args()
    disable_progress_bar()
    out = chosen.out or chosen.artifact / "onnx"
    try:
        forms = ["onnx", *(form for form in ("int8", "openvino") if getattr(chosen, form))]
        found = export(chosen.artifact, out, forms, chosen.set, chosen.tolerance)
        about = json.loads((out / ABOUT).read_text(encoding="utf-8"))
        caption = (
            f"Opset {about['opset']}; {about['rows']:,} validation rows; changed: answers that are not PyTorch's; logits: "
            f"largest distance; ms: {about['length']} tokens, {about['threads']} threads, fastest tenth (median)"
        )
        lines = table(found, about["metric"])
        if chosen.out is None:
            into_card(chosen.artifact / "README.md", lines, caption)
    except (ValueError, OSError) as error:
        sys.exit(printable(f"export: {error}"))
    show(lines, caption)
    for sentence in slower(found):
        print(sentence)
    print(printable(f"{out}: {', '.join(FILES[form] for form in forms)}"))


if __name__ == "__main__":
    main()
