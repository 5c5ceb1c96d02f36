"""How far each layer of a student is from each layer of its teacher, in what they make of the validation rows."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from kd_lightning.run import reading

ROWS, BATCH = 256, 32  # the first rows; sequences at once


def distances(student: Path, teacher: Path, rows: Sequence[tuple[str, ...]], length: int) -> Tensor | None:
    """[L + 1, M + 1]: 1 - CKA of the states of the student's L layers and the teacher's M, 0 being those of the embedding.

    A row's state is the mean over its tokens, so that networks of other widths and other tokenizers can be compared. None
    where one of the two has no layers. rows: one text or a pair each. length: tokens, at most.
    """
    both = [states(folder, tuple(rows[:ROWS]), length) for folder in (student, teacher)]
    if not all(both):
        return None
    return 1 - torch.stack([torch.stack([cka(ours, theirs) for theirs in both[1]]) for ours in both[0]])


@cache
@torch.inference_mode()
def states(folder: Path, rows: tuple[tuple[str, ...], ...], length: int) -> list[Tensor]:
    """Of each layer [N, hidden], in float64; empty for a network without layers. Asked once of each network."""
    config = reading.config(folder)
    model, tokenizer = reading.model(folder).eval(), reading.tokenizer(folder)
    found: list[list[Tensor]] = []
    for begin in range(0, len(rows), BATCH):
        texts = [list(column) for column in zip(*rows[begin : begin + BATCH], strict=True)]
        batch = tokenizer(*texts, truncation=True, max_length=length, padding=True, return_tensors="pt")
        if getattr(config, "type_vocab_size", 2) < 2:
            batch.pop("token_type_ids", None)
        mask = batch["attention_mask"].unsqueeze(-1)
        hidden = getattr(model(**batch, output_hidden_states=True), "hidden_states", None)
        if hidden is None:
            return []
        found.append([((layer * mask).sum(1) / mask.sum(1)).double() for layer in hidden])
    return [torch.cat(layer) for layer in zip(*found, strict=True)]


def cka(x: Tensor, y: Tensor) -> Tensor:
    """The linear centred kernel alignment of [N, D] and [N, E], 0 to 1; turning or scaling one of them changes nothing.

    Source: Kornblith et al. 2019, section 3. With few rows and many columns it is too high.
    """
    x, y = x - x.mean(0), y - y.mean(0)
    a, b = x @ x.T, y @ y.T
    return (a * b).sum() / (a.norm() * b.norm()).clamp(min=torch.finfo(a.dtype).tiny)
