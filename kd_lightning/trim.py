"""Fewer tokens: a tokenizer that knows some of its pieces alone, and a network with the rows of its tables that belong to them.

A text whose pieces are all kept is cut as before. What each kind of tokenizer needs for that, beside the pieces themselves:

    Unigram    the piece of the lowest score, by which the price of an unknown character is set. What is left out was no part
               of the best path, and a path's score depends on its own pieces alone.
    WordPiece  nothing: the longest piece that fits is still there, and nothing longer has come. (A word that was [UNK] may
               come out as pieces.)
    BPE        the merges that make a kept piece, with all that they pass through. Of the merges that apply to a word the first
               in the list comes next, and those that this word uses are kept in their order.

Any other text is cut into kept pieces too. Each has a row in the network, which therefore reads the one text like the other.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kd_lightning.encoder import Encoder, vocabulary_id

Vocabulary = Callable[[Encoder], PreTrainedTokenizerBase]  # which tokens a student reads, by its teacher
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a piece that stands for a byte of a character which has no piece of its own
RULES = ("type", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "max_input_chars_per_word")


def tokenizer_of(tokenizer: PreTrainedTokenizerBase, seen: set[int], *, characters: bool) -> PreTrainedTokenizerBase:
    """One of the same class with the pieces of these numbers, in their order, the special tokens, and what else its kind needs.

    characters: keep every piece of a single character (or byte) too, so that no text is unknown which was not so before; BPE,
    which begins with them, always does. Numbers up to padding's stay as they are: RoBERTa counts positions from there.
    Raises ValueError for a kind of tokenizer that is none of the three.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = json.loads(backend.to_str()) if isinstance(backend, Tokenizer) else {"model": {"type": type(tokenizer).__name__}}
    model, added = state["model"], state.get("added_tokens", [])
    kind, prefix, suffix = model["type"], model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    if kind not in ("Unigram", "WordPiece", "BPE") or (kind == "BPE" and prefix):
        raise ValueError(
            f"student/vocabulary=used: the teacher's tokenizer is a {kind}{f' with {prefix}' if prefix else ''}, of which no "
            "pieces can be left out here. Choose a teacher with a Unigram, WordPiece or BPE tokenizer, or do without it."
        )
    table = {piece: number for number, (piece, _) in enumerate(model["vocab"])} if kind == "Unigram" else model["vocab"]
    kept = seen | set(tokenizer.all_special_ids) | {token["id"] for token in added} | set(range(tokenizer.pad_token_id + 1))
    single = characters or kind == "BPE"
    for piece, number in table.items():
        if BYTE.fullmatch(piece) or (single and len(piece.removeprefix(prefix).removesuffix(suffix)) == 1):
            kept.add(number)
    if kind == "Unigram":
        kept.add(min(table.values(), key=lambda number: model["vocab"][number][1]))
    if kind == "BPE":
        rank = {tuple(pair): number for number, pair in enumerate(map(_pair, model["merges"]))}
        wanted = [piece for piece, number in table.items() if number in kept]
        used = {pair for piece in wanted for pair in _merges(piece, suffix, rank)}
        kept |= {table[part] for pair in used for part in (*pair, "".join(pair))}
        model["merges"] = [list(pair) for pair in rank if pair in used]
    pieces = sorted((piece for piece, number in table.items() if number in kept), key=table.__getitem__)
    further = [token["content"] for token in sorted(added, key=lambda token: token["id"]) if token["content"] not in table]
    numbers = {piece: number for number, piece in enumerate([*pieces, *further])}
    for token in added:
        token["id"] = numbers[token["content"]]
    scored = [(piece, model["vocab"][table[piece]][1]) for piece in pieces] if kind == "Unigram" else []
    model["vocab"] = scored or {piece: numbers[piece] for piece in pieces}
    if scored and model["unk_id"] is not None:
        model["unk_id"] = next(new for new, piece in enumerate(pieces) if table[piece] == model["unk_id"])
    _renumber(state["post_processor"], numbers)
    own = copy.copy(tokenizer)
    own._tokenizer = Tokenizer.from_str(json.dumps(state | {"padding": None, "truncation": None}))
    if scored:  # what is read from JSON has scores that differ in the last bit, which decides between equal paths
        own._tokenizer.model = Unigram(scored, model["unk_id"], model["byte_fallback"])
    return own


def _pair(merge: str | list[str]) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def _merges(piece: str, suffix: str, rank: dict[tuple[str, str], int]) -> Iterator[tuple[str, str]]:
    """The merges that make a piece of its characters."""
    parts = list(piece.removesuffix(suffix))
    if piece.endswith(suffix) and parts:
        parts[-1] += suffix
    while found := [(rank[pair], place) for place, pair in enumerate(pairwise(parts)) if pair in rank]:
        _, place = min(found)
        yield parts[place], parts[place + 1]
        parts[place : place + 2] = ["".join(parts[place : place + 2])]


def _renumber(processor: dict[str, Any] | None, numbers: dict[str, int]) -> None:
    """Put the special tokens' numbers into what sets them around a text."""
    for part in (processor or {}).get("processors", [processor] if processor else []):
        for token in part.get("special_tokens", {}).values():
            token["ids"] = [numbers[name] for name in token["tokens"]]
        for side in ("cls", "sep"):
            if side in part:
                part[side] = [part[side][0], numbers[part[side][0]]]


def rows(tokenizer: PreTrainedTokenizerBase, whole: PreTrainedTokenizerBase) -> list[int] | None:
    """The number that each token of a tokenizer has in the whole one, of which it is a part: it knows some of the pieces, and
    goes by the same rules. None where it is no part."""
    ours, theirs = tokenizer.get_vocab(), whole.get_vocab()
    if not (len(ours) < len(theirs) and ours.keys() <= theirs.keys() and sorted(ours.values()) == list(range(len(ours)))):
        return None
    if tokenizer.special_tokens_map != whole.special_tokens_map or tokenizer.pad_token_id != whole.pad_token_id:
        return None
    if _rules(tokenizer) != _rules(whole):
        return None
    return [theirs[piece] for piece in sorted(ours, key=ours.__getitem__)]


def _rules(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return [state["normalizer"], state["pre_tokenizer"], *(state["model"].get(rule) for rule in RULES)]


def fitting(network: Encoder, vocabulary: Vocabulary | None) -> Encoder:
    """The network that a student with layers like its own is made from: a reader of the tokens of this vocabulary, a function
    of the network that gives a tokenizer. None: the network itself. Raises ValueError for tokens that are not the network's."""
    if vocabulary is None:
        return network
    tokenizer = vocabulary(network)
    cut = reading(network, tokenizer)
    if cut.spec.vocabulary_id != vocabulary_id(tokenizer):
        raise ValueError(
            "student/vocabulary: this student has layers like its teacher's, so it reads the teacher's pieces. Choose "
            "student/vocabulary=used (those that occur), or leave it out (all of them)."
        )
    return cut


def reading(network: Encoder, tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """The network as a reader of a tokenizer's tokens, where these are a part of its own; any other network as it is.

    Of each table it keeps the rows of these tokens, embeddings as well as the last linear of a masked LM. Its hidden states,
    attention and classes are what they were for the same pieces; its distribution over tokens is what it was, given that the
    token is a kept one.
    """
    chosen = rows(tokenizer, network.tokenizer)
    if chosen is None:
        return network
    model, index, fields = network.model, torch.tensor(chosen), network.model.config.to_dict()
    numbers = {old: new for new, old in enumerate(chosen)}
    named = {name: numbers.get(old) for name, old in fields.items() if name.endswith("_token_id") and isinstance(old, int)}
    own = type(model)(type(model.config).from_dict(fields | named | {"vocab_size": len(chosen)}))
    source = model.state_dict()
    with torch.no_grad():
        for name, tensor in own.state_dict().items():
            tensor.copy_(_chosen(source[name], tensor.shape, index))
    return Encoder(own.train(model.training), tokenizer, network.spec.trained_head)


def _chosen(table: Tensor, shape: torch.Size, index: Tensor) -> Tensor:
    """The rows, or columns, of these tokens, where a table has one for each token; its wanted shape tells."""
    different = [place for place, (has, wants) in enumerate(zip(table.shape, shape, strict=True)) if has != wants]
    return table.index_select(different[0], index) if different else table
