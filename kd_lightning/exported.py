"""What `kd_lightning.export` left, read back and run: no PyTorch and no transformers, only tokenizers and the format's runtime.

A folder may be a stranger's: `export.json` is read as data and checked, and of the folder's files those alone are opened whose
names stand here.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from kd_lightning.manifest import check
from kd_lightning.run.shown import printable

ABOUT, TOKENIZER = "export.json", "tokenizer.json"
FILES = {"onnx": "model.onnx", "int8": "model.int8.onnx", "openvino": "openvino_model.xml"}
ATTRIBUTES = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}  # of an Encoding
MOST = 4_000_000  # bytes of export.json
AGAIN = "Export the artifact again, or copy the export again from where it came."
BATCH = 32

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], np.ndarray]


@dataclass(frozen=True)
class About:
    """What export.json says that a reader needs. labels: in the order of the logits, one for a regression. text: how many texts
    a row has. length: tokens of the task's typical row."""

    labels: list[str]
    inputs: list[str]
    text: int
    length: int


def about(folder: Path) -> About:
    """Raises ValueError where the folder is no export, or its export.json is damaged."""
    file = folder / ABOUT
    try:
        with file.open("rb") as opened:
            found = json.loads(opened.read(MOST))
        labels, inputs, text, length = (found[name] for name in ("labels", "inputs", "text", "length"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder}: no export is there (a folder with {ABOUT}, which python -m kd_lightning.export leaves)."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} does not say which labels and inputs the model has. {AGAIN}") from error
    names = isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels)
    known = isinstance(inputs, list) and "input_ids" in inputs and all(name in ATTRIBUTES for name in inputs)
    if not (names and known and text in (1, 2) and isinstance(length, int) and 0 < length < 1 << 20):
        raise ValueError(f"{file} does not say which labels and inputs the model has. {AGAIN}")
    return About([printable(label) for label in labels], inputs, text, length)


class Exported:
    """One file of an export. threads: that compute one answer; 0: as many as the runtime chooses."""

    def __init__(self, folder: Path, form: str = "onnx", threads: int = 0) -> None:
        self.about = about(folder)
        check(folder)
        for name in (FILES[form], TOKENIZER):
            if not (folder / name).is_file():
                raise ValueError(f"{folder / name} is missing. {AGAIN}")
        self.file = folder / FILES[form]
        self.run: Run = (_openvino if form == "openvino" else _onnxruntime)(self.file, threads)
        self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))

    def encode(self, texts: Sequence[tuple[str, ...]]) -> Arrays:
        """The model's inputs [B, S]. tokenizer.json itself says where a text is cut and with what it is padded."""
        rows = self.tokenizer.encode_batch([text if len(text) == 2 else text[0] for text in texts])
        if not rows[0].ids:  # texts without a token are read as one of padding
            for row in rows:
                row.pad(1, pad_id=self.tokenizer.padding["pad_id"])
        return {name: np.array([getattr(row, ATTRIBUTES[name]) for row in rows], np.int64) for name in self.about.inputs}

    def logits(self, texts: Sequence[tuple[str, ...]], batch: int = BATCH) -> np.ndarray:
        """[N, C] of N texts or pairs, a batch after the other as they come."""
        starts = range(0, len(texts), batch)
        return np.concatenate([self.run(self.encode(texts[start : start + batch])) for start in starts])


def _onnxruntime(file: Path, threads: int) -> Run:
    try:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NotImplemented
    except ImportError as error:
        raise ValueError(f"{file}: onnxruntime runs it, and is not installed. Run pip install -e '.[export]'.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf, NotImplemented) as error:
        raise ValueError(f"{file} cannot be run by onnxruntime ({printable(str(error))[:200]}). {AGAIN}") from error
    return lambda inputs: session.run(None, inputs)[0]


def _openvino(file: Path, threads: int) -> Run:
    try:
        import openvino
    except ImportError as error:
        raise ValueError(f"{file}: openvino runs it, and is not installed. Run pip install -e '.[openvino]'.") from error
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    try:
        request = openvino.Core().compile_model(file, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise ValueError(f"{file} cannot be run by openvino ({printable(str(error))[:200]}). {AGAIN}") from error
    return lambda inputs: request.infer(inputs)[0].copy()
