"""Whether a model, its tokenizer and this package's way with them belong together: said when a model is loaded."""

import copy
import inspect
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config, tokenizer_class_from_name
from transformers.models.mobilebert.modeling_mobilebert import MobileBertPreTrainedModel
from transformers.utils import cached_file

from kd_lightning.tokenizer_check import ANOTHER, check_tokenizer
from kd_lightning.views import Needs

KNOWN = "e.g. a BERT, RoBERTa, ELECTRA, DistilBERT or ModernBERT"


def existing(path: str | Path) -> str:
    """path as transformers wants it; a path that can only be a local folder must be one."""
    folder = Path(path).expanduser()
    if folder.is_dir() or str(path).startswith((".", "/", "~")) or str(path).count("/") > 1:
        if not (folder / "config.json").is_file():
            raise ValueError(f"{path}: no model is there (a folder with config.json and model.safetensors is wanted).")
        return str(folder)
    return str(path)


def read_config(path: str | Path) -> PreTrainedConfig:
    where = existing(path)
    try:
        return AutoConfig.from_pretrained(where, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        own = ""
        if "trust_remote_code" in str(error):
            reason = "it is built by code of its own, which is never run here"
            own = ", or save it as one of these in a program of your own, where you trust that code"
        else:
            reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(
            f"{path}: this model cannot be loaded ({reason}). Choose one that transformers knows, {KNOWN}{own}."
        ) from error


def read_tokenizer(path: str | Path, config: PreTrainedConfig | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or under a hub name; raises ValueError where none is there or it cannot be read.

    config: of the model that it is for, which says of what kind it is where the folder does not; None: the one beside it."""
    where = existing(path) if config is None else _tokenizer_folder(path)
    try:
        with from_json():
            _refuse_own_code(path, where)
            tokenizer = AutoTokenizer.from_pretrained(where, config=config, trust_remote_code=False)
    except OwnCode:
        raise
    except (ImportError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        words = " ".join(str(error).split())
        if "pip install" in words or isinstance(error, ImportError):
            further = "its form wants a further package: pip install sentencepiece tiktoken protobuf"
        else:
            further = words[:200] + ("" if len(words) <= 200 else " ...")
        raise ValueError(f"{path}: its tokenizer cannot be read ({further}).") from error
    if len(tokenizer.get_vocab()) <= len(set(tokenizer.all_special_ids)):
        raise ValueError(
            f"{path}: there is no tokenizer (tokenizer.json, vocab.txt or the like), so every text would become "
            f"{tokenizer.unk_token or 'nothing'}. Save the model's tokenizer beside it, tokenizer.save_pretrained(folder), or "
            "name it: teacher.tokenizer=<folder or hub name>."
        )
    return tokenizer


def _tokenizer_folder(path: str | Path) -> str:
    folder = Path(path).expanduser()
    local = folder.exists() or str(path).startswith((".", "/", "~")) or str(path).count("/") > 1
    if local and not folder.is_dir():
        there = "a file" if folder.exists() else "nothing"
        raise ValueError(
            f"teacher.tokenizer={path}: {there} is there, and a folder with tokenizer.json, vocab.txt or the like is wanted, "
            "or a hub name."
        )
    return str(folder) if local else str(path)


def _refuse_own_code(path: str | Path, where: str) -> None:
    """A tokenizer whose class is code beside it would be read by another one, unless its tokenizer.json says all."""
    silent = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    config = get_tokenizer_config(where)
    named = str(config.get("tokenizer_class") or "")
    code = "AutoTokenizer" in (config.get("auto_map") or {}) or (named and tokenizer_class_from_name(named) is None)
    if code and cached_file(where, "tokenizer.json", **silent) is None:
        raise OwnCode(
            f"{path}: its tokenizer{f' ({ascii(named)[:60]})' if named else ''} is code of its own, which is never run here. "
            f"{ANOTHER}, saved as tokenizer.json: convert it once in a program of your own, where you trust that code."
        )


class OwnCode(ValueError):
    """What is to be read is built by code that comes with it."""


class from_json:
    """Makes a ValueError of what tokenizers says of a tokenizer.json that is none: an `Exception`, and no subclass of it. All
    others pass."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if kind is Exception:
            raise ValueError(f"tokenizer.json holds no tokenizer: {error}") from error


def check_pair(path: str | Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, special: tuple[str, ...]) -> None:
    """Every id of the tokenizer has its vector, the special tokens of these kinds are there and stand where the model was
    trained to see them (`tokenizer_check.py`)."""
    vectors, highest = model.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values())
    if highest >= vectors:
        raise ValueError(
            f"{path}: its tokenizer knows token {highest} and the model has vectors for 0 to {vectors - 1}, so they do not "
            f"belong together. {ANOTHER}."
        )
    if absent := [kind for kind in special if getattr(tokenizer, f"{kind}_token_id") is None]:
        raise ValueError(
            f"{path}: its tokenizer has no {' and no '.join(absent)} token, which a text in a batch needs. Name them in its "
            f'tokenizer_config.json, e.g. "{absent[0]}_token": "[{absent[0].upper()}]".'
        )
    check_tokenizer(path, model, tokenizer)


def longest(model: PreTrainedModel) -> int | None:
    """How many tokens a model reads at most; None: its configuration sets no limit.

    A table of positions in which padding has a row of its own (RoBERTa's) counts from the row after that.
    """
    limits = [getattr(model.config, "max_position_embeddings", None) or None]
    for name, table in model.base_model.named_modules():
        if name.endswith("position_embeddings") and isinstance(table, nn.Embedding):
            limits.append(table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))
    return min((limit for limit in limits if limit is not None and limit > 0), default=None)


def has_segments(model: PreTrainedModel) -> bool:
    """Whether it tells the second text of a pair from the first by `token_type_ids`."""
    accepted = inspect.signature(model.forward).parameters
    return "token_type_ids" in accepted and getattr(model.config, "type_vocab_size", 2) > 1


def fitted(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """A copy that says what this model reads: its length at most, padding on the right as in training, and no segments where
    it has a vector for the first alone (a RoBERTa with a BERT's tokenizer)."""
    own, limit = copy.copy(tokenizer), longest(model)
    own.init_kwargs = dict(tokenizer.init_kwargs)
    own.padding_side = "right"
    if limit is not None:
        own.model_max_length = min(tokenizer.model_max_length, limit)
    if getattr(model.config, "type_vocab_size", 2) == 1:
        names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        own.model_input_names = own.init_kwargs["model_input_names"] = names
    return own


class Trial:
    """Two short rows of tokens, and what plain transformers answers to each of them alone.

    Made before the encoder takes the model over; `check` then compares what the encoder shows for both in one batch, so that
    one of them is padded. No random number is drawn.
    """

    def __init__(self, path: str | Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.what = f"{path}: a {type(model).__name__}"
        special = set(tokenizer.all_special_ids)
        words = [number for number in sorted(tokenizer.get_vocab().values()) if number not in special]
        first, last = ([n] if n is not None else [] for n in (tokenizer.cls_token_id, tokenizer.sep_token_id))
        width = min(12, longest(model) or 12) - len(first + last)
        words = words[:: max(1, len(words) // 12)]
        self.rows = [[*first, *(words * 12)[:count], *last] for count in (max(1, width // 2), max(1, width))]
        ids, mask = (torch.zeros(2, len(self.rows[1]), dtype=torch.long) for _ in range(2))
        ids.fill_(tokenizer.pad_token_id)
        for number, row in enumerate(self.rows):
            ids[number, : len(row)], mask[number, : len(row)] = torch.tensor(row), 1
        self.batch = {"input_ids": ids, "attention_mask": mask}
        # what stands right of a word is read by MobileBERT's embedding, so that its padding counts in transformers too
        alone = not isinstance(model, MobileBertPreTrainedModel)
        self.expected = self._asked(lambda: self._plain(model, alone))

    @torch.no_grad()
    def _plain(self, model: PreTrainedModel, alone: bool) -> list[Tensor]:
        if not alone:
            return list(model(**self.batch).logits)
        return [
            model(**{n: t[k : k + 1, : len(row)] for n, t in self.batch.items()}).logits[0] for k, row in enumerate(self.rows)
        ]

    def check(self, encoder: nn.Module) -> None:
        """Raises ValueError where the encoder does not show what transformers computes."""
        if not all(bool(logits.isfinite().all()) for logits in self.expected):
            raise ValueError(f"{self.what} whose weights give values that are not finite. Choose another checkpoint.")
        self._asked(lambda: self._compare(encoder))

    @torch.no_grad()
    def _compare(self, encoder: nn.Module) -> None:
        layers, width = encoder.spec.layers, len(self.rows[1])
        view = encoder(self.batch, Needs(hidden=frozenset(range(layers + 1)), logits=True))
        low = encoder(self.batch, Needs(hidden=frozenset({1}))).hidden[1]
        pairs = [(low[k, : len(row)], view.hidden[1][k, : len(row)]) for k, row in enumerate(self.rows)]
        for k, row in enumerate(self.rows):
            place = torch.arange(len(row)) + k * width
            shown = view.logits(torch.tensor([k]))[0] if encoder.spec.labels else view.logits(place)
            pairs.append((shown, self.expected[k][: len(row)] if shown.ndim > 1 else self.expected[k]))
        for ours, theirs in pairs:
            if not torch.allclose(ours, theirs, rtol=0, atol=2e-5 + 1e-3 * float(theirs.abs().max())):
                raise ValueError(
                    f"{self.what}, and what it answers here to two short texts in a batch is not what it answers to each alone "
                    f"in transformers (they differ by {float((ours - theirs).abs().max()):.2g}). Choose another, {KNOWN}."
                )

    def _asked(self, question):
        try:
            return question()
        except (TypeError, AttributeError, KeyError, IndexError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ValueError(f"{self.what}, which cannot be used here ({reason}). Choose another, {KNOWN}.") from error
