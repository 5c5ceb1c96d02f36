"""Any Hugging Face encoder as a network: `forward(batch, needs) -> View`, without hooks and without surgery.

Queries and keys: the attention function below runs fused attention and appends (query · scaling, key) to the list that
`forward` hands down as the keyword `capture`. Heads: a model's head is the model with its encoder replaced by the
encoder's result. Early stop: the model with its list of blocks cut short. Both replacements are shallow twins that share
every parameter with the original, made anew for each call.
"""

import copy
import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.mobilebert.modeling_mobilebert import MobileBertLMPredictionHead
from transformers.utils import logging

from kd_lightning.views import Batch, Needs, Readout, Spec, View

ATTENTION = "sdpa_with_query_key"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def _attention(module, query, key, value, attention_mask, scaling, capture=None, dropout=0.0, **rest):
    scaled = query * scaling
    if capture is not None:
        capture.append((scaled, key))
    if query.device.type == "cpu" and value.dtype == torch.bfloat16:
        return _plain_attention(scaled, key, value, attention_mask, dropout), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **rest)


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention from its formula: in bfloat16 on a CPU its backward is up to three times faster than the fused one's.

    query (scaled), key, value: [B, A, S, H]; mask [B, 1, S, S], true where a key is seen. Returns [B, S, A, H].
    """
    scores = query @ key.mT  # [B, A, S, S]
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = F.dropout(F.softmax(scores, dim=-1), dropout)
    return (weights @ value).transpose(1, 2).contiguous()


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


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


def vocabulary_id(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of the token -> id table."""
    table = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
    return hashlib.blake2b(table, digest_size=8).hexdigest()


class Encoder(nn.Module):
    """A Hugging Face masked LM or sequence classifier, with its tokenizer."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trained_head: bool = True) -> None:
        super().__init__()
        model.set_attn_implementation(ATTENTION)
        self.model, self.tokenizer = model, tokenizer
        config, base = model.config, model.base_model
        lists = [name for name, m in base.named_modules() if isinstance(m, nn.ModuleList)]
        self._blocks = next((n for n in lists if len(base.get_submodule(n)) == config.num_hidden_layers), "")
        if not self._blocks:
            raise ValueError(
                f"{type(model).__name__}: it has no list of {config.num_hidden_layers} blocks, one a layer, so its layers "
                "cannot be told apart. Choose another architecture, e.g. a BERT, RoBERTa or ELECTRA."
            )
        accepted = inspect.signature(model.forward).parameters
        self._inputs = [name for name in INPUTS if name in accepted]
        projection = model.get_output_embeddings()
        self._projection = next((name for name, m in model.named_modules() if m is projection), None)
        self.spec = Spec(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            vocabulary=config.vocab_size,
            vocabulary_id=vocabulary_id(tokenizer),
            labels=() if self._projection else tuple(config.id2label[i] for i in range(config.num_labels)),
            trained_head=trained_head,
        )

    @property
    def blocks(self) -> nn.ModuleList:
        """Block 1 is the first."""
        return self.model.base_model.get_submodule(self._blocks)

    def forward(self, batch: Batch, needs: Needs) -> View:
        layers = self.spec.layers
        stop = layers if needs.logits else max(1, *needs.hidden, *needs.attention)
        base = self.model.base_model
        if stop < layers:
            base = _twin(base, self._blocks, self.blocks[:stop])
        captured: list[tuple[Tensor, Tensor]] | None = [] if needs.attention else None
        inputs = {name: batch[name] for name in self._inputs if name in batch}
        below = any(k < stop for k in needs.hidden)
        output = base(**inputs, capture=captured, output_hidden_states=below)
        if captured is not None and len(captured) != stop:
            raise ValueError(
                f"{type(self.model).__name__} showed the attention of {len(captured)} of {stop} layers: it does not use "
                "the attention interface of transformers, so a term on attention cannot be computed with it."
            )
        return View(
            hidden={k: output.hidden_states[k] if k < stop else output.last_hidden_state for k in needs.hidden},
            attention={k: captured[k - 1] for k in needs.attention},
            readout=(lambda rows: self._readout(output, rows)) if needs.logits else None,
        )

    def _readout(self, output, rows: Tensor) -> Readout:
        prefix = self.model.base_model_prefix
        if self._projection is None:
            return Readout(_twin(self.model, prefix, _Given(output))().logits[rows])
        chosen = output.last_hidden_state.flatten(0, 1)[rows]  # [N, D]
        head = self.model.get_submodule(self._projection.rpartition(".")[0])
        if isinstance(head, MobileBertLMPredictionHead):  # its last linear is the word table beside a matrix of its own
            weight = torch.cat([head.decoder.weight, head.dense.weight.mT], dim=1)
            return Readout(head.transform(chosen), weight, head.decoder.bias)
        head = _twin(self.model, prefix, _Given(BaseModelOutput(last_hidden_state=chosen[None])))
        head = _twin(head, self._projection, nn.Identity())
        last = self.model.get_submodule(self._projection)
        return Readout(head().logits[0], last.weight, last.bias)


def tokenizer_of(path: str | Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(_existing(path))


def masked_lm(path: str | Path) -> Encoder:
    """The masked LM in a local folder or under a hub name, in float32."""
    return _load(AutoModelForMaskedLM, path)


def label_settings(labels: Sequence[str]) -> dict[str, Any]:
    """What a configuration says of these classes, in the order of the logits; one is a regression."""
    names = [str(name) for name in labels]
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": "regression" if len(names) == 1 else "single_label_classification",
    }


def classifier(path: str | Path, labels: Sequence[str]) -> Encoder:
    """The encoder in a local folder or under a hub name, as a classifier of labels; one label makes it a regression.

    A classifier found there keeps its head, whose classes are put into the order of labels by their names (upper and lower
    case, blanks, `-` and `_` are alike); other names are refused. Any other model gets a new head.
    """
    config, order = AutoConfig.from_pretrained(_existing(path)), None
    labels = [str(name) for name in labels]
    if any("SequenceClassification" in name for name in config.architectures or ()):
        found = [config.id2label[i] for i in range(config.num_labels)]
        theirs, ours = ([_plain(name) for name in names] for names in (found, labels))
        if sorted(theirs) != sorted(ours) or len(set(ours)) < len(ours):
            raise ValueError(
                f"labels: {path} classifies {found} and the task {labels}. The names must agree: "
                "correct id2label in its config.json if only the names differ, or fine-tune it on this task (stage=teacher)."
            )
        order = [theirs.index(name) for name in ours]
    for name, value in label_settings(labels).items():
        setattr(config, name, value)
    encoder = _load(AutoModelForSequenceClassification, path, config=config)
    if order is not None and order != sorted(order):
        last = [m for m in encoder.model.modules() if isinstance(m, nn.Linear) and m.out_features == len(order)][-1]
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.copy_(parameter[order])
    return encoder


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_").replace(" ", "_")


def _existing(path: str | Path) -> str:
    """path as transformers wants it; a path that can only be a local folder must be one."""
    folder = Path(path).expanduser()
    if folder.is_dir() or str(path).startswith((".", "/", "~")) or str(path).count("/") > 1:
        if not (folder / "config.json").is_file():
            raise ValueError(f"{path}: no model is there (a folder with config.json and model.safetensors is wanted).")
        return str(folder)
    return str(path)


def _load(auto_class: type, path: str | Path, **options) -> Encoder:
    """from_pretrained, without its report of new weights: a head may be new, and `Spec.trained_head` says so."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        where = _existing(path)
        model, loaded = auto_class.from_pretrained(where, dtype=torch.float32, output_loading_info=True, **options)
        tokenizer = AutoTokenizer.from_pretrained(where)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: this model cannot be loaded. {str(error).strip().splitlines()[0]}") from error
    except RuntimeError as error:
        raise ValueError(f"{path}: the weights in there have not the shapes that its config.json says.") from error
    finally:
        logging.set_verbosity(level)
    prefix = f"{model.base_model_prefix}."
    return Encoder(model, tokenizer, trained_head=all(name.startswith(prefix) for name in loaded["missing_keys"]))
