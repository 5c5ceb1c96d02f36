"""How large models are and how fast they answer, eager and in ONNX Runtime.

    python benchmarks/latency.py                                     # BERT-base and the low-resource students, random weights
    python benchmarks/latency.py --of mobilebert --length 128        # MobileBERT, and what NoNorm and ReLU buy
    python benchmarks/latency.py artifacts/.../teacher artifacts/.../bilstm --length 20 --batch 32 --threads 2

Milliseconds for a batch of sequences of one length, float32, on a CPU: the median of 50 after 10 to warm up, all models taking
turns. Tokenisation is not counted. The ratios are to BERT-base and to the first model that is named. Each export is checked
to give the eager model's logits.
"""

import argparse
import contextlib
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BertConfig, MobileBertConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from kd_lightning.run.artifact import load, megaflops, parameters
from kd_lightning.run.report import figure, show

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("tang_bilstm", "bilstm_small", "kim_cnn", "bow_mlp")
TINY = {"use_bottleneck_attention": True, "key_query_shared_bottleneck": False, "num_feedforward_networks": 2}
REPEATS, WARM_UP = 50, 10
ROUNDING = 1e-4


class Logits(nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def fresh(config: PreTrainedConfig) -> PreTrainedModel:
    """With random weights."""
    return AutoModelForSequenceClassification.from_config(config).eval()


def mobilebert(norm: str = "no_norm", act: str = "relu", **flags: bool | int) -> PreTrainedModel:
    return fresh(MobileBertConfig(normalization_type=norm, hidden_act=act, classifier_activation=False, **flags))


def preset(name: str) -> PreTrainedModel:
    """A student of conf/student."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["method=bilstm", "stage=task", f"student={name}"]).student
    architecture = instantiate(cfg.architecture, _convert_="all")
    config = architecture(vocab_size=cfg.vocabulary.size, embedding_size=cfg.embeddings.size)
    return fresh(config)


FAMILIES = {
    "low_resource": lambda: {name: preset(name) for name in PRESETS},
    "mobilebert": lambda: {
        "MobileBERT": mobilebert(),
        "NoNorm, GELU": mobilebert(act="gelu"),
        "LayerNorm, ReLU": mobilebert(norm="layer_norm"),
        "LayerNorm, GELU": mobilebert(norm="layer_norm", act="gelu"),
        "MobileBERT-tiny": mobilebert(**TINY),
    },
}


def exported(model: PreTrainedModel, inputs: dict[str, Tensor], threads: int) -> Callable[[], object]:
    """The model in ONNX Runtime, for inputs of this very shape."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = f"{folder}/model.onnx"
        torch.onnx.export(Logits(model).eval(), (), path, kwargs=inputs, input_names=list(inputs), dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options)
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    (logits,) = session.run(None, arrays)
    error = float((model(**inputs).logits - torch.from_numpy(logits)).abs().max())
    if error > ROUNDING:
        raise ValueError(f"{type(model).__name__}: the export's logits are {error:.1e} away from the model's.")
    return lambda: session.run(None, arrays)


def milliseconds(calls: list[Callable[[], object]]) -> list[float]:
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(WARM_UP + REPEATS):
        for call, measured in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if turn >= WARM_UP:
                measured.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(measured) for measured in times]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", metavar="folder", help="classifiers, e.g. artifacts; the first is compared with")
    parser.add_argument("--of", choices=FAMILIES, default="low_resource", help="random weights (default low_resource)")
    parser.add_argument("--length", type=int, default=20, help="tokens (default 20)")
    parser.add_argument("--batch", type=int, default=1, help="sequences (default 1)")
    parser.add_argument("--threads", type=int, default=1, help="(default 1)")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    disable_progress_bar()
    logging.disable(logging.WARNING)  # the exporter's, about torchvision
    models = {"BERT-base": fresh(BertConfig())}
    models |= {Path(folder).name: load(folder) for folder in chosen.folders}
    models |= FAMILIES[chosen.of]()
    inputs = {"input_ids": torch.randint(5, 1000, (chosen.batch, chosen.length))}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with contextlib.redirect_stdout(None):
        runtimes = [exported(model, inputs, chosen.threads) for model in models.values()]
    eager = milliseconds([lambda model=model: model(**inputs) for model in models.values()])
    onnx = milliseconds(runtimes)
    reference = 1 if chosen.folders else 0
    rows = []
    for (name, model), one, two in zip(models.items(), eager, onnx, strict=True):
        body = parameters(model) - sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))
        rows.append(
            {
                "model": name,
                "parameters (body)": f"{parameters(model) / 1e6:.2f}M ({body / 1e6:.3f}M)",
                "MB": f"{4e-6 * parameters(model):.2f}",
                "MFLOPs": figure(megaflops(model, chosen.length), ".2f"),
                "eager ms": f"{one:.3f}",
                "ratio": f"{eager[0] / one:.1f}x",
                "ONNX ms": f"{two:.3f}",
                "ratio ": f"{onnx[0] / two:.1f}x",
                **({"eager": f"{eager[1] / one:.1f}x", "ONNX": f"{onnx[1] / two:.1f}x"} if reference else {}),
            }
        )
    machine = f"{chosen.batch} x {chosen.length} tokens, {chosen.threads} threads, float32"
    ratios = "body: without embeddings; ratios to BERT-base" + (
        f", in the last columns to {list(models)[1]}" if reference else ""
    )
    show(rows, f"{machine}; {ratios}")


if __name__ == "__main__":
    main()
