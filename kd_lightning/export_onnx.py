"""A classifier as a file for ONNX Runtime or OpenVINO: float32, int8, or OpenVINO's own form.

Batch and length stay free. Every input of the tokenizer stays an input of the graph, also one that the model does not read.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

GATES = (0, 3, 1, 2)  # of torch's input, forget, cell, output: the order in which ONNX has them
LSTM_OPSET = 14


class _LSTM(nn.Module):
    """One layer and direction of nn.LSTM, batch first, as ONNX's own operator: torch's exporter unrolls it over the length of
    its example."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.size = lstm.hidden_size
        self.register_buffer("input", _gates(lstm.weight_ih_l0)[None])
        self.register_buffer("recurrent", _gates(lstm.weight_hh_l0)[None])
        self.register_buffer("bias", torch.cat([_gates(lstm.bias_ih_l0), _gates(lstm.bias_hh_l0)])[None])

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        batch, length, _ = x.shape
        states, *_ = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            [x.transpose(0, 1), self.input, self.recurrent, self.bias],
            {"hidden_size": self.size},
            dtypes=[x.dtype] * 3,
            shapes=[(length, 1, batch, self.size), (1, batch, self.size), (1, batch, self.size)],
            version=LSTM_OPSET,
        )
        return states.squeeze(1).transpose(0, 1), None  # [B, S, H]


def _gates(weight: Tensor) -> Tensor:
    parts = weight.detach().chunk(4)
    return torch.cat([parts[place] for place in GATES])


class _Logits(nn.Module):
    """What is exported: the tokenizer's inputs, by their places, to logits."""

    def __init__(self, model: PreTrainedModel, inputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inputs = copy.deepcopy(model), inputs
        for parent in list(self.model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.LSTM):
                    setattr(parent, name, _LSTM(child))

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model(**dict(zip(self.inputs, tensors, strict=True))).logits


def onnx(model: PreTrainedModel, inputs: Sequence[str], file: Path) -> int:
    """Write model.onnx, one file; returns its opset. inputs: what the tokenizer gives, in order. Raises ValueError where
    torch's exporter cannot follow the model."""
    example = tuple(torch.ones(2, 7, dtype=torch.long) for _ in inputs)  # one object twice would become one input of the graph
    dims = {0: "batch", 1: "length"}
    try:
        with _quiet():
            program = torch.onnx.export(
                _Logits(model, inputs).eval(),
                example,
                input_names=list(inputs),
                output_names=["logits"],
                dynamic_shapes=((dims,) * len(inputs),),
                dynamo=True,
                verbose=False,
            )
            program.save(file, external_data=False)
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        kind = type(model).__name__
        raise ValueError(f"{kind}: PyTorch {torch.__version__} cannot export this kind of model ({said[:200]}).") from error
    return program.model.opset_imports[""]


def int8(file: Path, out: Path) -> None:
    """The same with weights of eight bits; activations are quantised as they come (onnxruntime's dynamic quantisation)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(file, out, weight_type=QuantType.QInt8)


def openvino(file: Path, out: Path) -> None:
    """The same in OpenVINO's form, float32: out.xml and, beside it, out.bin."""
    import openvino as ov

    ov.save_model(ov.Core().read_model(file), out, compress_to_fp16=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters print of their progress and of packages that nothing here needs."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
