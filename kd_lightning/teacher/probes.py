"""A stored teacher with a probe on each layer: a softmax classifier that tells how much of the task the layer knows.

AdaBERT (Chen et al. 2020, arXiv 2001.04246) teaches with the probes' answers. They are learned once, from gold labels, on what
a frozen teacher shows for the training examples, and only their logits and the teacher's are kept. As in EasyTransfer there is
one on the embeddings and one on each of the L layers.
"""

import hashlib
import json
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import get_scheduler

from kd_lightning.keep import keep
from kd_lightning.teacher.stored import Examples, StoredTeacher, digest_of, sent
from kd_lightning.views import Batch, Needs, Readout, View


class ProbedTeacher(StoredTeacher):
    """Shows logits, and `probes`, for examples by number. epochs, lr, batch_size and warmup (share of the updates) say how the
    probes learn.

    A probe reads [CLS]; that of the embeddings, where [CLS] is the same for all texts, reads the mean over real positions.
    Deviation: EasyTransfer's mean is over padding too; its probes start at random, these, a convex problem, at 0.
    """

    def __init__(self, teacher: nn.Module, *, epochs: int, lr: float, batch_size: int, warmup: float) -> None:
        super().__init__(teacher)
        self.settings = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "warmup": warmup}

    def forward(self, batch: Batch, needs: Needs) -> View:
        index, device = batch["index"].cpu().numpy(), batch["attention_mask"].device

        def kept(name: str) -> Tensor:
            return sent(torch.from_numpy(self.arrays[name][index]), device)

        return View(
            readout=(lambda rows: Readout(kept("logits")[rows])) if needs.logits else None,
            probes=kept("probes") if needs.probes else None,
        )

    @cached_property
    def accuracy(self) -> list[float]:
        """The accuracy of each probe on the validation examples, layer 0 first."""
        return json.loads((self.folder / "accuracy.json").read_text(encoding="utf-8"))

    def store(self, needs: Needs, data: Examples, cache: str) -> None:
        """As in StoredTeacher, but the same is kept whatever the needs; prints the accuracy of each probe."""
        needs = Needs(hidden=frozenset(range(self.spec.layers + 1)), logits=True)
        (batches, tokens), labels, splits = data.every_row(), data.gold(), data.numbers()
        learned = splits["train"][labels[splits["train"]] >= 0]
        key = hashlib.blake2b(repr(self.settings).encode() + labels[learned].tobytes() + learned.tobytes(), digest_size=8)
        self.folder = Path(cache) / f"probes-{digest_of(self.teacher, needs, tokens)}-{key.hexdigest()}"
        self._take(keep(self.folder, partial(self._learn, needs, batches, labels, learned, splits["validation"])))
        print("Probes on layer 0, 1, ..., accuracy on validation: " + " ".join(f"{value:.3f}" for value in self.accuracy))

    def _learn(
        self,
        needs: Needs,
        batches: DataLoader,
        labels: np.ndarray,
        learned: np.ndarray,
        measured: np.ndarray,
        folder: Path,
    ) -> None:
        """labels: of all examples; learned, measured: the numbers of those that the probes learn from and are measured on."""
        shape = (len(labels), len(needs.hidden), self.spec.hidden)
        features = np.lib.format.open_memmap(f"{folder}-features.npy", "w+", np.float16, shape)
        logits = np.zeros((len(labels), len(self.spec.labels)), np.float32)
        for batch in track(batches, "Teacher", total=len(batches), transient=True):
            features[batch["index"]], logits[batch["index"]] = _summary(self.teacher, needs, batch)
        probes = learn(features, labels, learned, len(self.spec.labels), **self.settings)
        answers = np.concatenate([_answers(probes, part) for part in np.array_split(features, len(labels) // 1000 + 1)])
        folder.mkdir()
        np.save(folder / "logits.npy", logits)
        np.save(folder / "probes.npy", answers)
        right = answers[measured].argmax(-1) == labels[measured, None]  # [N, L + 1]
        (folder / "accuracy.json").write_text(json.dumps(right.mean(0).tolist()), encoding="utf-8")


@torch.no_grad()
def _summary(teacher: nn.Module, needs: Needs, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """What the probes read [B, L + 1, D], and the logits [B, C]."""
    device = next(teacher.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    view, real = teacher(batch, needs), batch["attention_mask"][..., None]
    mean = (view.hidden[0].float() * real).sum(1) / real.sum(1)
    pooled = [mean, *(view.hidden[k][:, 0].float() for k in sorted(needs.hidden - {0}))]
    logits = view.logits(torch.arange(len(real), device=device))
    return torch.stack(pooled, dim=1).cpu().numpy(), logits.float().cpu().numpy()


def learn(
    features: np.ndarray,
    labels: np.ndarray,
    numbers: np.ndarray,
    classes: int,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    warmup: float,
) -> tuple[Tensor, Tensor]:
    """Weights [L + 1, D, C] and biases [L + 1, 1, C] of softmax classifiers of features [n, L + 1, D], from the examples that
    have these numbers."""
    weight = torch.zeros(*features.shape[1:], classes, requires_grad=True)
    bias = torch.zeros(features.shape[1], 1, classes, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=lr)
    updates = epochs * -(-len(numbers) // batch_size)
    scheduler = get_scheduler("linear", optimizer, round(warmup * updates), updates)
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(numbers)
        for part in np.split(order, range(batch_size, len(order), batch_size)):
            logits = torch.baddbmm(bias, _by_layer(features[part]), weight)  # [L + 1, B, C]
            gold = torch.from_numpy(labels[part]).expand(len(logits), -1)
            loss = len(logits) * F.cross_entropy(logits.flatten(0, 1), gold.flatten())  # the sum over probes
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    return weight.detach(), bias.detach()


def _by_layer(features: np.ndarray) -> Tensor:
    return torch.from_numpy(features.astype(np.float32)).transpose(0, 1)


def _answers(probes: tuple[Tensor, Tensor], features: np.ndarray) -> np.ndarray:
    weight, bias = probes
    return torch.baddbmm(bias, _by_layer(features), weight).transpose(0, 1).numpy()
