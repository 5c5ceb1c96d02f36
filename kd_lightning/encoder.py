"""Any Hugging Face encoder as a network: `forward(batch, needs) -> View`, without hooks and without surgery.

Queries and keys: see `attention.py`. Heads: a model's head is the model with its encoder replaced by the encoder's result.
Early stop: the model with its list of blocks cut short. Both are shallow twins, made anew, that share every parameter.
"""

import copy
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mobilebert.modeling_mobilebert import MobileBertLMPredictionHead
from transformers.utils import logging

from kd_lightning.attention import ATTENTION
from kd_lightning.dropout import replace_dropout
from kd_lightning.pairing import KNOWN, Trial, check_pair, existing, fitted, has_segments, read_config, read_tokenizer
from kd_lightning.views import Batch, Needs, Readout, Spec, View

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
SHAPE = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")


class _Given(nn.Module):
    """Stands where an encoder stood and returns what the encoder has already computed."""

    def __init__(self, output) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_, **__):
        return self.output


def _twin(module: nn.Module, path: str, replacement: nn.Module) -> nn.Module:
    """A shallow copy of module in which the submodule at path is another; the original is untouched."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    name, _, rest = path.partition(".")
    twin._modules[name] = _twin(module._modules[name], rest, replacement) if rest else replacement
    return twin


def _shown(block: nn.Module, outputs: list[Tensor]) -> nn.Module:
    """A twin of a block that also appends what it returns to outputs: what a model makes of its last block's output (a norm, in
    ModernBERT) is no layer's."""
    twin = copy.copy(block)

    def forward(*args, **kwargs):
        result = block.forward(*args, **kwargs)
        outputs.append(result[0] if isinstance(result, tuple) else result)
        return result

    twin.forward = forward
    return twin


def vocabulary_id(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of the token -> id table."""
    table = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
    return hashlib.blake2b(table, digest_size=8).hexdigest()


class Encoder(nn.Module):
    """A Hugging Face masked LM or sequence classifier, with its tokenizer."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trained_head: bool = True) -> None:
        super().__init__()
        config, base = model.config, model.base_model
        if absent := [name for name in SHAPE if not isinstance(getattr(config, name, None), int)]:
            raise ValueError(
                f"{type(model).__name__}: its configuration has no {' and no '.join(absent)}, so its layers cannot be told "
                f"apart. Choose another architecture, {KNOWN}."
            )
        try:
            model.set_attn_implementation(ATTENTION)
        except ValueError as error:
            raise ValueError(
                f"{type(model).__name__}: it cannot attend as this package does. Choose another, {KNOWN}."
            ) from error
        replace_dropout(model)
        self.model, self.tokenizer = model, fitted(tokenizer, model)
        lists = [name for name, m in base.named_modules() if isinstance(m, nn.ModuleList)]
        # ALBERT chooses a block by its number, and one may serve many layers: it always runs as a whole
        shared = hasattr(config, "num_hidden_groups")
        found = (n for n in lists if not shared and len(base.get_submodule(n)) == config.num_hidden_layers)
        self._blocks = next(found, "")
        named = inspect.signature(model.forward).parameters
        self._inputs = [n for n in INPUTS if n in named and (n != "token_type_ids" or has_segments(model))]
        last = model.get_output_embeddings()
        self._projection = next((name for name, m in model.named_modules() if m is last), None)
        self.spec = Spec(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            vocabulary=config.vocab_size,
            vocabulary_id=vocabulary_id(tokenizer),
            labels=() if self._projection else tuple(config.id2label[i] for i in range(config.num_labels)),
            trained_head=trained_head,
            shows_attention=model._supports_attention_backend,
        )

    @property
    def blocks(self) -> nn.ModuleList:
        """Block 1 is the first."""
        if not self._blocks:
            raise ValueError(f"{type(self.model).__name__}: it has no list of blocks, one a layer. Choose another, {KNOWN}.")
        return self.model.base_model.get_submodule(self._blocks)

    def forward(self, batch: Batch, needs: Needs) -> View:
        layers = self.spec.layers
        stop = layers if needs.logits or not self._blocks else max(1, *needs.hidden, *needs.attention)
        base, shown = self.model.base_model, []
        if stop < layers:
            base = _twin(base, self._blocks, nn.ModuleList([*self.blocks[: stop - 1], _shown(self.blocks[stop - 1], shown)]))
        captured: list[tuple[Tensor, Tensor]] | None = [] if needs.attention else None
        inputs = {name: batch[name] for name in self._inputs if name in batch}
        full = "real" in batch and len(batch["real"]) == batch["input_ids"].numel()  # known without a look at the mask
        read = {name: tensor for name, tensor in inputs.items() if not (full and name == "attention_mask")}
        output = base(**read, capture=captured, output_hidden_states=any(k < stop for k in needs.hidden))
        if captured is not None and len(captured) != stop:
            raise ValueError(
                f"{type(self.model).__name__} showed the attention of {len(captured)} of {stop} layers: it does not use "
                "the attention interface of transformers, so a term on attention cannot be computed with it."
            )
        last = output.last_hidden_state if stop == layers else shown[0]
        return View(
            hidden={k: output.hidden_states[k] if k < stop else last for k in needs.hidden},
            attention={k: captured[k - 1] for k in needs.attention},
            readout=(lambda rows: self._readout(output, inputs, rows)) if needs.logits else None,
        )

    def _readout(self, output, inputs: Mapping[str, Tensor], rows: Tensor) -> Readout:
        """inputs: what a head reads beside the encoder's output, as ModernBERT's mean over real positions reads the mask."""
        prefix = self.model.base_model_prefix
        if self._projection is None:
            return Readout(_twin(self.model, prefix, _Given(output))(**inputs).logits[rows])
        chosen = output.last_hidden_state.flatten(0, 1).index_select(0, rows)  # [N, D]
        head = self.model.get_submodule(self._projection.rpartition(".")[0])
        if isinstance(head, MobileBertLMPredictionHead):  # its last linear is the word table beside a matrix of its own
            weight = torch.cat([head.decoder.weight, head.dense.weight.mT], dim=1)
            return Readout(head.transform(chosen), weight, head.decoder.bias)
        head = _twin(self.model, prefix, _Given(BaseModelOutput(last_hidden_state=chosen[None])))
        head = _twin(head, self._projection, nn.Identity())
        last = self.model.get_submodule(self._projection)
        return Readout(head().logits[0], last.weight, last.bias)


def masked_lm(path: str | Path, tokenizer: str | Path | None = None) -> Encoder:
    """The masked LM in a folder or under a hub name, in float32. tokenizer: another place of its tokenizer."""
    return _load(AutoModelForMaskedLM, path, read_config(path), ("pad", "cls", "sep", "mask"), tokenizer)


def label_settings(labels: Sequence[str]) -> dict[str, Any]:
    """What a configuration says of these classes, in the order of the logits; one is a regression."""
    names = [str(name) for name in labels]
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": "regression" if len(names) == 1 else "single_label_classification",
    }


def classifier(path: str | Path, labels: Sequence[str], tokenizer: str | Path | None = None) -> Encoder:
    """The encoder in a folder or under a hub name, as a classifier of labels, one for a regression. tokenizer: as above.

    A classifier found there keeps its head, whose classes are put into the order of labels by their names (those that are not
    there as they are written are looked for without upper case, blanks, `-` and `_`); other names are refused. Any other
    model gets a new head.

    Deviation: under a new head MobileBERT's [PAD], the last token's neighbour, is 0, as what lies beyond the longest text is.
    """
    config, order, labels = read_config(path), None, [str(name) for name in labels]
    if any("SequenceClassification" in name for name in config.architectures or ()):
        found = [str(config.id2label[i]) for i in range(config.num_labels)]
        order = _places(labels, found)
        if sorted(order) != list(range(len(found))):
            raise ValueError(
                f"labels: {path} classifies {found} and the task {labels}. The names must agree: "
                "correct id2label in its config.json if only the names differ, or fine-tune it on this task (stage=teacher)."
            )
    for name, value in label_settings(labels).items():
        setattr(config, name, value)
    encoder = _load(AutoModelForSequenceClassification, path, config, ("pad",), tokenizer)
    if getattr(config, "trigram_input", False) and not encoder.spec.trained_head:
        nn.init.zeros_(encoder.model.get_input_embeddings().weight[config.pad_token_id])
    if order is not None and order != sorted(order):
        last = [m for m in encoder.model.modules() if isinstance(m, nn.Linear) and m.out_features == len(order)][-1]
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.copy_(parameter[order])
    return encoder


def _places(ours: Sequence[str], theirs: Sequence[str]) -> list[int]:
    """Where each of our names is among theirs: as it is written, else the only one left that is like it; -1: nowhere."""
    given, alike, same = set(ours), {}, {name: i for i, name in enumerate(theirs)}
    for i, other in enumerate(theirs):
        if other not in given:
            alike[_plain(other)] = -1 if _plain(other) in alike else i
    return [same.get(name, alike.get(_plain(name), -1)) for name in ours]


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_").replace(" ", "_")


def _load(auto_class: type, path: str | Path, config: PreTrainedConfig, special: tuple[str, ...], other: str | Path | None):
    """An Encoder by from_pretrained, without its report of new weights: a head may be new, and `Spec.trained_head` says so.

    special: the kinds of special tokens that the tokenizer must have. other: where it lies, if not beside the model."""
    where, level = existing(path), logging.get_verbosity()
    logging.set_verbosity_error()
    given = {"config": config, "dtype": torch.float32, "output_loading_info": True, "trust_remote_code": False}
    if type(config) not in auto_class._model_mapping:
        raise ValueError(f"{path}: a {config.model_type} cannot serve as an encoder with this head. Choose another, {KNOWN}.")
    try:
        model, loaded = auto_class.from_pretrained(where, **given)
        tokenizer = read_tokenizer(where) if other is None else read_tokenizer(other, config)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: this model cannot be loaded. {str(error).strip().splitlines()[0]}") from error
    except RuntimeError as error:
        raise ValueError(f"{path}: the weights in there have not the shapes that its config.json says ({error}).") from error
    finally:
        logging.set_verbosity(level)
    inside = [name for name in loaded["missing_keys"] if name.startswith(f"{model.base_model_prefix}.")]
    if absent := [name for name in inside if "pooler" not in name]:
        raise ValueError(
            f"{path}: {len(absent)} weights of a {config.model_type} are not in there ({absent[0]} ...), so it would be random "
            "in part. Its config.json belongs to other weights."
        )
    check_pair(path, model, tokenizer, special)
    trial = Trial(path, model, tokenizer)
    encoder = Encoder(model, tokenizer, trained_head=len(inside) == len(loaded["missing_keys"]))
    trial.check(encoder)
    return encoder
