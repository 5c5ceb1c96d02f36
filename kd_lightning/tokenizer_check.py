"""Whether a tokenizer is the one that a model was trained with, as far as the two tell: read by another class, it gives wrong
answers in silence."""

from functools import cache
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLE = 200  # words of a vocabulary that are read back
FEW = 10  # fewer say nothing
ANOTHER = "Name the one that the model was trained with, teacher.tokenizer=<folder or hub name>"


def check_tokenizer(path: str | Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ValueError for what changes a model's answers: the token that its head reads stands elsewhere, positions that are
    counted from another padding, a vocabulary whose own words are unknown. What may be meant so is said, once."""
    _check_order(path, tokenizer)
    _check_padding(path, model, tokenizer)
    _check_ids(path, model, tokenizer)
    _check_words(path, tokenizer)


def _check_order(path: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """A head reads the first token, or the one that cls names."""
    first, ids = tokenizer.cls_token_id, tokenizer("a")["input_ids"]
    if first is None or ids[:1] == [first]:
        return
    if first in ids:
        raise ValueError(
            f"{path}: its tokenizer ({type(tokenizer).__name__}) puts {tokenizer.cls_token} behind the text, and the model's "
            f"head reads what stands first. {ANOTHER}."
        )
    _say(
        f"{path}: its tokenizer puts no {tokenizer.cls_token} before a text, so a head reads the text's first token. {ANOTHER}."
    )


def _check_padding(path: str | Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    theirs, ours = model.config.pad_token_id, tokenizer.pad_token_id
    if theirs is None or ours is None or theirs == ours:
        return
    said = f"{path}: its tokenizer pads with token {ours} and config.json says {theirs} (pad_token_id)"
    tables = [m for name, m in model.named_modules() if name.endswith("position_embeddings") and isinstance(m, nn.Embedding)]
    if any(table.padding_idx is not None for table in tables):
        raise ValueError(f"{said}, from which this model counts its positions. {ANOTHER}, or correct config.json.")
    _say(f"{said}. They may not belong together.")


def _check_ids(path: str | Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    for kind, names in (("cls", ("cls_token_id", "bos_token_id")), ("sep", ("sep_token_id", "eos_token_id"))):
        told = [(name, getattr(model.config, name, None)) for name in names]
        name, theirs = next(((name, number) for name, number in told if number is not None), ("", None))
        ours = getattr(tokenizer, f"{kind}_token_id")
        if theirs is not None and ours is not None and theirs != ours:
            said = f"{path}: its tokenizer's {kind} token is {ours} and config.json says {theirs} ({name})"
            _say(f"{said}. They may not belong together.")


def _check_words(path: str | Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Words of the vocabulary, read as text, without the sign of a word's begin (SentencePiece, byte pairs) or of its end."""
    unknown = tokenizer.unk_token_id
    model = getattr(getattr(tokenizer, "_tokenizer", None), "model", None)
    suffix = getattr(model, "end_of_word_suffix", None) or ""
    named = {name.removesuffix(suffix).lstrip("▁Ġ") for name in tokenizer.get_vocab() if name.endswith(suffix)}
    whole = sorted(named - set(tokenizer.all_special_tokens))
    words = [name for name in whole if len(name) > 1 and name.isalpha()]
    if unknown is None or len(words) < FEW:
        return
    words = words[:: -(-len(words) // SAMPLE)]
    read = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
    share = sum(unknown in ids for ids in read) / len(words)
    if share > 0.5:
        raise ValueError(
            f"{path}: its tokenizer, read as a {type(tokenizer).__name__}, does not know {share:.0%} of the words of its own "
            f"vocabulary, so this is not how it was made. {ANOTHER}, e.g. a folder with its tokenizer.json; to a vocab.txt "
            'with upper case, accents or Hangul belongs "do_lower_case": false in tokenizer_config.json.'
        )


@cache
def _say(sentence: str) -> None:
    """Once, however many stages load the model."""
    print(sentence, flush=True)
