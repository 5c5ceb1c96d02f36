"""A teacher that has answered already: its outputs for every example of a task, on disk, memory-mapped.

One pass of the teacher over the data, without a student; from then on no epoch, and no later run on the same teacher, data
and tokens, runs it again. What is kept under the cache is named by a digest of all that it follows from, so a stale one
is never found.
"""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kd_lightning.keep import keep
from kd_lightning.terms import real_positions
from kd_lightning.views import Batch, Needs, Readout, View

Tensors = dict[str, Tensor]


class Examples(Protocol):
    """The examples of a task, with the same numbers everywhere: `data.labelled.LabelledText`."""

    def every_row(self) -> tuple[DataLoader, pa.Table]:
        """Batches that hold every example once, with the examples' numbers as `index`; and all that a network reads of them,
        by number: columns that hold a list of tokens for each example."""

    def numbers(self) -> dict[str, np.ndarray]:
        """The numbers of each split's examples."""

    def gold(self) -> np.ndarray:
        """The labels, by number."""


class StoredTeacher(nn.Module):
    """A network that shows what another one has shown. Its batches carry `index`, the number of each example.

    It is made around the teacher, and of no use until `store` has asked the teacher and let it go. It reads no tokens: the
    examples may come in another tokenizer's, as its spec says.
    Logits are kept in float32, layers in the teacher's own dtype and at real positions only: what it shows at padding is 0.
    """

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher: nn.Module | None = teacher
        self.spec = replace(teacher.spec, stored=True)
        self.arrays: dict[str, np.ndarray] = {}

    def forward(self, batch: Batch, needs: Needs) -> View:
        index, mask = batch["index"].cpu().numpy(), batch["attention_mask"]  # [B], [B, S]

        def kept(name: str, places: np.ndarray) -> Tensor:
            return sent(_tensor(self.arrays[name][places]), mask.device)

        def layer(name: str) -> Tensor:
            found = kept(name, np.concatenate([self.positions[number] for number in index]))  # [N, ...], N real positions
            shown = found.new_zeros(mask.numel(), *found.shape[1:]).index_copy_(0, real_positions(batch), found)
            return shown.view(*mask.shape, *found.shape[1:])

        def head(name: str) -> Tensor:
            return layer(name).transpose(1, 2)  # [B, A, S, H]

        return View(
            hidden={k: layer(f"hidden_{k}") for k in needs.hidden},
            attention={k: (head(f"query_{k}"), head(f"key_{k}")) for k in needs.attention},
            readout=(lambda rows: Readout(kept("logits", index)[rows])) if needs.logits else None,
        )

    def bytes_a_token(self, needs: Needs, batch: Batch) -> float:
        """How much `store` is going to write for each token of its rows, by what the teacher shows for this batch."""
        shown = _outputs(self.teacher, needs, batch).values()
        return sum(tensor.numel() * tensor.element_size() for tensor in shown) / int(batch["attention_mask"].sum())

    def store(self, needs: Needs, data: Examples, cache: str) -> None:
        """Take the teacher's outputs for all examples from the cache or, if they are not there, compute and write them now.

        data: in the teacher's tokens. Says how much it is going to write; raises ValueError where the disk has less.
        """
        batches, tokens = data.every_row()
        folder = Path(cache) / f"teacher-{digest_of(self.teacher, needs, tokens)}"
        lengths = pc.list_value_length(tokens["input_ids"]).to_numpy().astype(np.int64)
        self._take(keep(folder, lambda scratch: _write(scratch, self.teacher, needs, batches, lengths)))
        self.positions = _positions(self.arrays["lengths"])

    def _take(self, folder: Path) -> None:
        """Show what is in this folder from now on, instead of the teacher."""
        self.arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
        self.teacher = None


def _write(folder: Path, teacher: nn.Module, needs: Needs, batches: DataLoader, lengths: np.ndarray) -> None:
    """lengths: how many tokens each example has, by number."""
    device = next(teacher.parameters()).device
    first = _outputs(teacher, needs, _to(next(iter(batches)), device))
    rows = {name: len(lengths) if name == "logits" else int(lengths.sum()) for name in first}
    size = sum(rows[name] * tensor[0].numel() * tensor.element_size() for name, tensor in first.items())
    free = shutil.disk_usage(folder.parent).free
    if size > free:
        raise ValueError(
            f"teacher.stored=true: {size / 1e9:.1f} GB are to be written to {folder.parent}, and {free / 1e9:.1f} GB are free "
            "there. Choose another cache=<folder>, or teacher.stored=false."
        )
    shown = f"{len(lengths):,} rows ({', '.join(first)}): {size / 1e6:,.1f} MB"
    print(f"Storing what the teacher shows for {shown} in {folder.parent}")
    folder.mkdir()
    np.save(folder / "lengths.npy", lengths)
    shapes = {name: (rows[name], *tensor.shape[1:]) for name, tensor in first.items()}
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", _numpy(tensor).dtype, shapes[name])
        for name, tensor in first.items()
    }
    positions = _positions(lengths)
    for batch in track(batches, "Teacher", total=len(batches), transient=True):
        index = batch["index"].numpy()
        places = np.concatenate([positions[number] for number in index])
        for name, tensor in _outputs(teacher, needs, _to(batch, device)).items():
            arrays[name][index if name == "logits" else places] = _numpy(tensor)
    for array in arrays.values():
        array.flush()


def _positions(lengths: np.ndarray) -> list[np.ndarray]:
    """Where the positions of each example are kept, one example after the other."""
    return np.split(np.arange(lengths.sum()), np.cumsum(lengths)[:-1])


@torch.no_grad()
def _outputs(teacher: nn.Module, needs: Needs, batch: Batch) -> Tensors:
    """Logits [B, C] and layers at real positions [N, ...], by name."""
    view, real = teacher(batch, needs), batch["attention_mask"].bool()
    outputs = {f"hidden_{k}": view.hidden[k][real] for k in sorted(needs.hidden)}
    for k in sorted(needs.attention):
        query, key = (heads.transpose(1, 2)[real] for heads in view.attention[k])  # [N, A, H]
        outputs |= {f"query_{k}": query, f"key_{k}": key}
    if needs.logits:
        outputs["logits"] = view.logits(torch.arange(len(real), device=real.device)).float()
    return outputs


def digest_of(teacher: nn.Module, needs: Needs, tokens: pa.Table) -> str:
    """The digest of the teacher's weights and precision, of what is kept, and of every token that it reads, in order."""
    digest = hashlib.blake2b(repr((needs, teacher.spec)).encode(), digest_size=8)
    for name, tensor in teacher.state_dict().items():
        digest.update(f"{name} {tensor.dtype}".encode())
        digest.update(_numpy(tensor.contiguous()))
    for name in tokens.column_names:
        digest.update(f"{name} {tokens[name].type}".encode())
        digest.update(pc.list_value_length(tokens[name]).to_numpy())
        for chunk in tokens[name].chunks:
            digest.update(chunk.flatten().to_numpy())
    return digest.hexdigest()


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On this device; nobody waits until it is there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _to(batch: Batch, device: torch.device) -> Tensors:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _numpy(tensor: Tensor) -> np.ndarray:
    """NumPy has no bfloat16: its bits stand for it."""
    tensor = tensor.cpu()
    return tensor.view(torch.int16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _tensor(array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
