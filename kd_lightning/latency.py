"""How fast models answer: `python -m kd_lightning.latency <artifacts, hub names, exports>`.

An artifact is timed in PyTorch and in every format that `kd_lightning.export` left in it. All take turns, block by block, each
warmed up right before its own block. Shown are the fastest tenth, which other work on the machine moves little, and the median.
Models of one architecture are measured once: their weights differ and their work does not.

    python -m kd_lightning.latency artifacts/demo/docs_topic/*      # texts as long as the task's
    python -m kd_lightning.latency --of mobilebert --length 128     # random weights: MobileBERT, and what NoNorm and ReLU buy

Length is in tokens. Without --length an artifact answers texts of its own task's length: the median of its validation rows in
its own tokens, so that a student of words reads fewer than one of pieces. "with text": the tokenizer's work counts too.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from hydra import compose
from hydra.utils import instantiate
from pyarrow import parquet
from transformers import AutoModelForSequenceClassification, BertConfig, MobileBertConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from kd_lightning.exported import ABOUT, FILES, Exported, about
from kd_lightning.manifest import check
from kd_lightning.run import reading
from kd_lightning.run.artifact import architecture, asked, load, megaflops, parameters, sequence
from kd_lightning.run.mistake import composing
from kd_lightning.run.report import figure, filled, show
from kd_lightning.run.results import PREDICTIONS
from kd_lightning.run.shown import printable
from kd_lightning.run.timing import LOW, Time, times

DEFAULT = 64  # tokens, where nothing says how long a text of the task is
PRESETS = ("tang_bilstm", "bilstm_small", "kim_cnn", "bow_mlp")
TINY = {"use_bottleneck_attention": True, "key_query_shared_bottleneck": False, "num_feedforward_networks": 2}
WORD = "the"  # fills a text that is as long as asked for


@dataclass(frozen=True)
class Timed:
    """One model in one format. key: equal of what does the same work. length: tokens of its task's typical text. answer(batch,
    length) and read(batch, length) make what is timed: an answer to token ids, and to texts (None: there is no tokenizer)."""

    name: str
    form: str
    key: str
    megabytes: float
    model: PreTrainedModel | None
    length: int | None
    answer: Callable[[int, int], Callable[[], object]]
    read: Callable[[int, int], Callable[[], object]] | None


def typical(folder: Path) -> int | None:
    """The tokens of a task's typical text, as the artifact's validation rows have them; None where it kept none."""
    file = folder / PREDICTIONS
    if not file.is_file():
        return None
    try:
        lengths = parquet.read_table(file, columns=["length"])["length"].to_numpy()
    except (OSError, KeyError, ValueError, pa.ArrowException):  # of an artifact without this column
        return None
    return int(np.median(lengths)) if len(lengths) and lengths.dtype.kind == "i" else None


def text_of(length: int, special: int) -> str:
    return " ".join([WORD] * max(1, length - special))


def in_torch(name: str, model: PreTrainedModel, tokenizer, length: int | None, *, compiled: bool = False) -> Timed:
    """tokenizer: None where only token ids are answered."""
    run = torch.compile(model, dynamic=False) if compiled else model

    def answer(batch: int, length: int) -> Callable[[], object]:
        inputs = sequence(model, length, batch)
        return lambda: run(**inputs)

    def read(batch: int, length: int) -> Callable[[], object]:
        texts = [text_of(length, len(tokenizer("")["input_ids"]))] * batch
        options = {"truncation": True, "max_length": length, "padding": True, "return_tensors": "pt"}
        return lambda: run(**tokenizer(texts, **options))

    form, size = "compiled" if compiled else "eager", sum(tensor.nbytes for tensor in model.state_dict().values())
    known = f"{form} {architecture(model)}"
    return Timed(name, form, known, size / 1e6, model, length, answer, None if tokenizer is None else read)


def of_export(name: str, folder: Path, form: str, threads: int, known: str, model: PreTrainedModel | None) -> Timed:
    exported = Exported(folder, form, threads)

    def answer(batch: int, length: int) -> Callable[[], object]:
        fill = {"input_ids": min(5, exported.tokenizer.get_vocab_size() - 1), "attention_mask": 1, "token_type_ids": 0}
        inputs = {name: np.full((batch, length), fill[name]) for name in exported.about.inputs}
        return lambda: exported.run(inputs)

    def read(batch: int, length: int) -> Callable[[], object]:
        texts = [(text_of(length, len(exported.tokenizer.encode("").ids)),)] * batch
        return lambda: exported.logits(texts, batch)

    size = sum(file.stat().st_size for file in (exported.file, exported.file.with_suffix(".bin")) if file.is_file())
    return Timed(name, form, f"{form} {known}", size / 1e6, model, exported.about.length, answer, read)


def found(path: str, threads: int, compiled: bool) -> list[Timed]:
    """What is at a path: an export, an artifact with the exports in it, or a model of the hub."""
    folder = Path(path)
    name = folder.name
    if not folder.is_dir():
        try:
            return [in_torch(path, load(path), None, None)]
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: no folder of this name, and no model that the hub has ({error}).") from error
    exports = [form for form, file in FILES.items() if (folder / file).is_file()]
    if (folder / ABOUT).is_file():
        name = f"{folder.resolve().parent.name}/{name}"
        return [of_export(name, folder, form, threads, str(folder.resolve()), None) for form in exports]
    check(folder)
    model, tokenizer, inside = reading.model(folder), reading.tokenizer(folder), folder / "onnx"
    exported = (inside / ABOUT).is_file()
    length = typical(folder) or (about(inside).length if exported else None)
    timed = [in_torch(name, model, tokenizer, length)]
    if compiled:
        timed.append(in_torch(name, model, tokenizer, length, compiled=True))
    forms = [form for form, file in FILES.items() if exported and (inside / file).is_file()]
    return timed + [of_export(name, inside, form, threads, architecture(model), model) for form in forms]


@torch.inference_mode()
def measured(all_timed: Sequence[Timed], batch: int, length: int | None) -> list[dict[str, str]]:
    """A table, a line each; the last column is to the first line."""
    wanted, lengths = {}, {}
    for timed in all_timed:
        tokens = lengths[timed.name, timed.form] = length or timed.length or DEFAULT
        for kind, make in (("ids", timed.answer), ("text", timed.read)):
            key = (timed.key, tokens, kind)
            if make is not None and key not in wanted:
                call = make(batch, tokens)
                what = f"latency ({timed.form}, {tokens} tokens)"
                wanted[key] = call if asked(timed.name, what, lambda call=call: call() is not None) else None
    calls = {key: call for key, call in wanted.items() if call is not None}
    clock: dict[tuple, Time] = dict(zip(calls, times(list(calls.values())), strict=True))
    lines, first = [], None
    for timed in all_timed:
        tokens = lengths[timed.name, timed.form]
        bare, whole = clock.get((timed.key, tokens, "ids")), clock.get((timed.key, tokens, "text"))
        first = first or bare
        model = timed.model
        lines.append(
            {
                "model": timed.name,
                "format": timed.form,
                "tokens": str(tokens),
                "parameters": f"{parameters(model) / 1e6:.2f}M" if model else "",
                "MB": f"{timed.megabytes:.2f}",
                "MFLOPs": figure(model and megaflops(model, tokens), ",.1f"),
                "ms": figure(bare and bare.low, ".3f"),
                "median": figure(bare and bare.median, ".3f"),
                "with text": figure(whole and whole.low, ".3f"),
                "speed": f"{first.low / bare.low:.1f}x" if first and bare else "",
            }
        )
    return filled(lines)


def fresh(config: PreTrainedConfig) -> PreTrainedModel:
    """With random weights."""
    return AutoModelForSequenceClassification.from_config(config).eval()


def mobilebert(norm: str = "no_norm", act: str = "relu", **flags: bool | int) -> PreTrainedModel:
    return fresh(MobileBertConfig(normalization_type=norm, hidden_act=act, classifier_activation=False, **flags))


def preset(name: str) -> PreTrainedModel:
    """A student of conf/student."""
    with composing():
        cfg = compose("train", ["method=bilstm", "stage=task", f"student={name}"]).student
    kind = instantiate(cfg.architecture, _convert_="all")
    return fresh(kind(vocab_size=cfg.vocabulary.size, embedding_size=cfg.embeddings.size))


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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m kd_lightning.latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="an artifact, an export or a hub name; the first is compared with"
    )
    parser.add_argument("--of", choices=FAMILIES, help="also BERT-base and a family, with random weights")
    parser.add_argument("--length", type=int, help="tokens (default: the task's, or 64)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32], help="texts at once (default 1 32)")
    parser.add_argument("--threads", type=int, default=1, help="(default 1)")
    parser.add_argument("--compiled", action="store_true", help="also by torch.compile, which takes a minute each")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    disable_progress_bar()
    try:
        if not (chosen.models or chosen.of):
            raise ValueError(f"nothing is named: give artifacts, exports or hub names, or --of {' or '.join(FAMILIES)}.")
        timed = [one for path in chosen.models for one in found(path, chosen.threads, chosen.compiled)]
        if chosen.of:
            random = {"BERT-base": fresh(BertConfig())} | FAMILIES[chosen.of]()
            timed += [in_torch(name, model, None, None) for name, model in random.items()]
        machine = (
            f"{chosen.threads} threads, float32 or as the format says; ms: the fastest {LOW:.0%}; speed: to the first line"
        )
        for batch in chosen.batch:
            show(measured(timed, batch, chosen.length), f"batch {batch}; {machine}")
    except ValueError as error:
        sys.exit(printable(f"latency: {error}"))


if __name__ == "__main__":
    main()
