"""Text as the sequences of token ids that a masked LM is trained on: cut, tokenised by all cores, counted, and written."""

import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.utils.data
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from kd_lightning.data.batches import outlive_signals
from kd_lightning.data.long_text import token_ids

SHORTEST = 12  # sequences with fewer tokens, special tokens included, are dropped, as in DistilBERT's release
ROWS = 2000  # texts that are tokenised at once; sequences end with them
LARGE = 1 << 26  # bytes of text from which processes take less time than the tokenizer's own threads
COUNTS = "counts.npy"  # beside the sequences: how often each token occurs in them
Part = tuple[np.ndarray, np.ndarray]  # token ids of sequences, one after the other, and the length of each
SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "length": pa.int64()})


def split_long(ids: list[int], max_length: int, first: int, last: int) -> list[list[int]]:
    """Pieces of at most max_length of a sequence that begins with first ([CLS]) and ends with last ([SEP]).

    Windows of max_length - 2 over the whole, then the missing special tokens are added (DistilBERT's release), so the
    first and the last piece are one shorter than the others.
    """
    if len(ids) <= max_length:
        return [ids]
    window = max_length - 2
    pieces = []
    for start in range(0, len(ids), window):
        piece = ids[start : start + window]
        pieces.append([first] * (piece[0] != first) + piece + [last] * (piece[-1] != last))
    return pieces


def sequences(lines: Iterable[list[int]], max_length: int, first: int, last: int, join: bool) -> Iterable[list[int]]:
    """[CLS] ... [SEP] for each line; with join, for as many consecutive lines of a document as fit. An empty line ends
    a document."""
    held: list[int] = []
    for line in lines:
        if held and not (join and line and len(held) + len(line) + 2 <= max_length):
            yield from split_long([first, *held, last], max_length, first, last)
            held = []
        held = held + line
    if held:
        yield from split_long([first, *held, last], max_length, first, last)


class Tokenised(torch.utils.data.Dataset):
    """Part i: the sequences of ROWS texts."""

    def __init__(self, text: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, join: bool) -> None:
        self.text, self.tokenizer, self.max_length, self.join = text, tokenizer, max_length, join

    def __len__(self) -> int:
        return -(-len(self.text) // ROWS)

    def __getitem__(self, part: int) -> Part:
        tokenizer = self.tokenizer
        first, last, unknown = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.unk_token_id
        lines = token_ids(tokenizer, self.text[part * ROWS : (part + 1) * ROWS]["text"])
        kept = [
            ids
            for ids in sequences(lines, self.max_length, first, last, self.join)
            if len(ids) >= SHORTEST and ids.count(unknown) < 0.5 * len(ids)
        ]
        return np.fromiter(itertools.chain.from_iterable(kept), np.int32), np.array([len(ids) for ids in kept], np.int64)


def write(text: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, join: bool, folder: Path, scratch: Path) -> int:
    """Leave in the folder the sequences of the column `text` and, as COUNTS, how often each token is in them. Returns how many
    sequences there are; of none nothing is left. scratch: a folder for meanwhile.

    A large text is tokenised by as many processes as there are cores: the other processes of a run on this machine wait for it.
    What is left is the same for any number of them.
    """
    parts = Tokenised(text, tokenizer, max_length, join)
    counts, number = np.zeros(len(tokenizer), np.int64), 0
    with pa.OSFile(f"{scratch}/sequences.arrow", "wb") as file, pa.ipc.new_stream(file, SCHEMA) as writer:
        for ids, lengths in tqdm(_made(parts, text.data.nbytes, scratch), "Tokenising", len(parts), disable=None):
            ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            writer.write_batch(pa.record_batch([pa.ListArray.from_arrays(ends, ids), lengths], schema=SCHEMA))
            counts += np.bincount(ids, minlength=len(counts))
            number += len(lengths)
    if number:
        Dataset.from_file(f"{scratch}/sequences.arrow").save_to_disk(folder)
        np.save(folder / COUNTS, counts)
    return number


def counted(folder: Path, data: Dataset, vocabulary: int) -> torch.Tensor:
    """[V]: how often each token occurs; read, or counted where an earlier version has made the folder and kept no counts."""
    if (folder / COUNTS).is_file():
        return torch.from_numpy(np.load(folder / COUNTS))
    ids = data.data.column("input_ids")
    return torch.as_tensor(sum(np.bincount(chunk.flatten().to_numpy(), minlength=vocabulary) for chunk in ids.chunks))


def cores() -> int:
    """That this process may use; 1 on a system that does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _made(parts: Tokenised, size: int, scratch: Path) -> Iterator[Part]:
    """The parts in their order. size: of the text, in bytes."""
    processes = min(cores(), len(parts)) if size >= LARGE else 1
    if processes == 1:
        yield from map(parts.__getitem__, range(len(parts)))
        return
    options = {"generator": torch.Generator(), "worker_init_fn": _alone, "collate_fn": partial(_put, scratch)}
    for file in DataLoader(parts, batch_size=None, num_workers=processes, **options):
        with np.load(file) as found:
            yield found["ids"], found["lengths"]
        os.remove(file)


def _alone(number: int) -> None:
    """A process for each core needs no threads beside it."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    outlive_signals(number)


def _put(scratch: Path, part: Part) -> str:
    """Write a part to a file, whose name goes to the main process: a worker that had the part itself in its pipe would wait
    for ever to be read where the main process has been killed."""
    with tempfile.NamedTemporaryFile(dir=scratch, suffix=".npz", delete=False) as file:
        np.savez(file, ids=part[0], lengths=part[1])
    return file.name
