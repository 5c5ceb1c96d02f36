"""AdaBERT's search network holds every operation on every edge of every cell; a step draws one of them for each edge, and a
number of cells (Chen et al. 2020, arXiv 2001.04246; Gumbel-Softmax, straight through).

The share of what was drawn is 1 and that of the rest 0. So a step needs the output of what was drawn, and for the rest only
how the loss would change with their share: ⟨gradient, output⟩. `_Drawn` computes these numbers during the backward pass and
keeps nothing for them; operations that were not drawn, and cells beyond the drawn depth, are run forward only. The numbers are
those of the plain sum over all operations and depths; see `benchmarks/search.py`.
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_lightning.encoder import INPUTS, Encoder
from kd_lightning.student.adabert.architecture import EDGES, OPERATIONS, Architecture, derive, size, work
from kd_lightning.student.adabert.cell import Cell, Places, Step, operation, run_cells
from kd_lightning.student.adabert.model import Embeddings, config_for, set_words
from kd_lightning.student.adabert.network import AdaBertConfig, AdaBertForSequenceClassification, TwoTexts, represent
from kd_lightning.student.low_resource import classifier_spec
from kd_lightning.trim import Vocabulary, fitting
from kd_lightning.views import Batch, Needs, Readout, View

PAPER_CELLS = 8  # the most there can be in the paper: its weight of the efficiency loss is for these
LARGEST = Architecture(1, {(0, 2): "conv_3"})  # stands in a configuration whose architecture is not known yet


@dataclass(frozen=True)
class Draw:
    """edges [9, 10] and depth [K], one-hot in the last dimension, with the gradient of their relaxation."""

    edges: Tensor
    depth: Tensor

    @cached_property
    def chosen(self) -> tuple[int, ...]:
        """The place of the 1 in each row of edges, and last in depth. Whoever asks first waits for the device."""
        return tuple(torch.cat([self.edges.argmax(-1), self.depth.argmax(-1, keepdim=True)]).tolist())

    def detach(self) -> "Draw":
        return Draw(self.edges.detach(), self.depth.detach())


class Choice(nn.Module):
    """The logits that are learned: which operation on each edge, the same in all cells, and how many cells."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.edges = nn.Parameter(1e-3 * torch.randn(len(EDGES), len(OPERATIONS)))
        self.depth = nn.Parameter(1e-3 * torch.randn(cells))

    def draw(self, temperature: float) -> Draw:
        return Draw(*(F.gumbel_softmax(logits.float(), temperature, hard=True) for logits in (self.edges, self.depth)))

    def architecture(self) -> Architecture:
        return derive(self.edges.detach(), self.depth.detach())

    @torch.no_grad()
    def summary(self, channels: int, length: int) -> dict[str, float]:
        """Where the search stands, by name: the entropy of the choice for an edge and for the cells (0: it is made); the
        expected size and work of all cells together, with all nine edges, of which `architecture` keeps six; the share of each
        operation; and the present architecture: cells, multiply-adds, and each edge's operation by its place in OPERATIONS,
        that of zero for an edge left out."""
        edges, depth = self.edges.double().softmax(-1).cpu(), self.depth.double().softmax(-1).cpu()
        cells = float(depth @ torch.arange(1.0, len(depth) + 1, dtype=torch.double))
        architecture = self.architecture()
        found = {
            "entropy/edges": -float((edges * edges.log()).sum(-1).mean()),
            "entropy/cells": -float((depth * depth.log()).sum()),
            "cells": float(architecture.cells),
            "multiply_adds": float(architecture.work(channels, length)),
        }
        for name, amount in (("parameters", size), ("multiply_adds", partial(work, length=length))):
            each = torch.tensor([amount(o, channels) for o in OPERATIONS], dtype=torch.double)
            found[f"expected/{name}"] = cells * float((edges @ each).sum())
        found |= {f"share/{name}": float(share) for name, share in zip(OPERATIONS, edges.mean(0), strict=True)}
        kept = {edge: architecture.edges.get(edge, "zero") for edge in EDGES}
        return found | {f"edge/{source}-{node}": float(OPERATIONS.index(o)) for (source, node), o in kept.items()}


def costs(channels: int, length: int) -> Tensor:
    """[10], of sum 1: the mean of softmax(parameters / 1e6) and softmax(multiply-adds / 1e8), one number an operation.

    These are the constants of EasyTransfer, which has them typed in for 128 channels and 128 tokens.
    Deviation: the PyTorch code divides by 1e5 and 1e7, so that its costs differ more.
    """
    sizes = torch.tensor([size(name, channels) for name in OPERATIONS], dtype=torch.double) / 1e6
    works = torch.tensor([work(name, channels, length) for name in OPERATIONS], dtype=torch.double) / 1e8
    return ((sizes.softmax(0) + works.softmax(0)) / 2).float()


def efficiency(draw: Draw, cost: Tensor) -> Tensor:
    """K / 8 · the mean over edges of the drawn operations' costs.

    Deviation: the paper has K / Kmax. Its Kmax is 8; with fewer cells to choose from a cell costs here what it costs there.
    """
    depth = (draw.depth * torch.arange(1, len(draw.depth) + 1, device=cost.device)).sum() / PAPER_CELLS
    return depth * (draw.edges @ cost.to(draw.edges.dtype)).mean()


class Edge(nn.ModuleDict):
    """All operations between two nodes of a search cell, by name."""

    def forward(self, x: Tensor, places: Places, weights: Tensor, chosen: int) -> Tensor:
        """weights [10]: one-hot, with the gradient of their relaxation; chosen: where the 1 is."""
        name = OPERATIONS[chosen]
        drawn = torch.zeros_like(x) if name == "zero" else self[name](x, places)
        return _Drawn.apply(drawn, weights, x.detach(), self, places)

    @torch.no_grad()
    def shares(self, x: Tensor, places: Places, gradient: Tensor) -> Tensor:
        """[10]: the sum of gradient · output of each operation. x, gradient: [N, C]."""
        found = [(gradient * self[name](x, places)).float().sum() for name in OPERATIONS[:-1]]
        return torch.stack([*found, torch.zeros_like(found[0])])


class _Drawn(torch.autograd.Function):
    """weights @ outputs for one-hot weights, where only the output that was drawn is known."""

    @staticmethod
    def forward(ctx, drawn: Tensor, weights: Tensor, x: Tensor, edge: Edge, places: Places) -> Tensor:
        ctx.save_for_backward(x)
        ctx.edge, ctx.places, kind = edge, places, x.device.type
        ctx.precision = partial(torch.autocast, kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        return drawn.view_as(drawn)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        if not ctx.needs_input_grad[1]:  # the choice rests
            return gradient, None, None, None, None
        with ctx.precision():
            return gradient, ctx.edge.shares(*ctx.saved_tensors, ctx.places, gradient), None, None, None


class Body(nn.Module):
    """The weights of the search network. Its BatchNorms use the batch's own statistics and learn nothing."""

    def __init__(self, config: AdaBertConfig, cells: int) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm1d, config.channels, affine=False, track_running_stats=False)

        def edge() -> Edge:
            return Edge({name: operation(name, config.channels, norm) for name in OPERATIONS[:-1]})

        self.embeddings = TwoTexts(config)
        self.cells = nn.ModuleList(Cell({between: edge() for between in EDGES}) for _ in range(cells))
        self.blends = nn.ParameterList(torch.zeros(depth + 1) for depth in range(1, cells + 1))
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.channels, config.num_labels)

    def forward(self, batch: Batch, draw: Draw) -> list[View]:
        """The logits and states of each depth 1..K; those of the drawn depth alone have a graph."""
        places = Places(batch["attention_mask"])
        second = batch.get("token_type_ids", torch.zeros_like(batch["input_ids"]))
        names = [f"{source}_{node}" for source, node in EDGES]
        *chosen, last = draw.chosen
        drawn = dict(zip(names, zip(draw.edges.unbind(0), chosen, strict=True), strict=True))
        reach = last + 1

        def step(cell: Cell) -> Step:
            return lambda name, x: cell.edges[name](x, places, *drawn[name])

        steps = [step(cell) for cell in self.cells]
        inputs = self.embeddings(batch["input_ids"], second, places)
        states = run_cells(steps[:reach], self.cells[:reach], *inputs)
        with torch.no_grad():
            before = states[-2] if reach > 1 else inputs[1]
            states += run_cells(steps[reach:], self.cells[reach:], before, states[-1])[1:]
        means, texts = [places.mean(x) for x in states], [places.texts(x) for x in states]
        views = []
        for depth, blend in enumerate(self.blends, start=1):
            with nullcontext() if depth == reach else torch.no_grad():
                logits = self.classifier(self.dropout(represent(means[: depth + 1], blend)))
            shown = texts if depth == reach else [x.detach() for x in texts]
            views.append(View(dict(enumerate(shown[: depth + 1])), readout=partial(_rows, logits)))
        return views


def _rows(logits: Tensor, rows: Tensor) -> Readout:
    return Readout(logits[rows])


class SearchNetwork(nn.Module):
    """Holds `body` and `choice`; as a network it shows what they have found so far: `model`, which `derive` makes of them."""

    def __init__(self, config: AdaBertConfig, cells: int, tokenizer: Any) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.body, self.choice = Body(config, cells), Choice(cells)
        self.spec = classifier_spec(config, tokenizer, layers=cells, hidden=config.channels)
        self.derive([])

    @property
    def model(self) -> AdaBertForSequenceClassification:
        return self._found[0]

    @torch.inference_mode(False)  # Lightning's validation is, and the model is to be an ordinary one
    @torch.no_grad()
    def derive(self, batches: Sequence[Batch]) -> None:
        """Make `model` of the present choice and weights. Its BatchNorms get their statistics from these batches, since
        an operation's statistics change with what was drawn before it."""
        architecture = self.choice.architecture()
        with torch.random.fork_rng(devices=[]):
            config = copy.deepcopy(self.config)
            config.architecture = architecture.as_dict()
            model = AdaBertForSequenceClassification(config).to(self.choice.depth.device).eval()
        model.embeddings.load_state_dict(self.body.embeddings.state_dict())
        model.classifier.load_state_dict(self.body.classifier.state_dict())
        model.blend.copy_(self.body.blends[architecture.cells - 1])
        for ours, theirs in zip(model.cells, self.body.cells, strict=False):
            ours.blend.copy_(theirs.blend)
            for (source, node), name in architecture.edges.items():
                found = theirs.edges[f"{source}_{node}"][name].state_dict()
                ours.edges[f"{source}_{node}"].load_state_dict(found, strict=False)  # BatchNorm has more in model
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = None  # the plain average over the batches
            norm.train()
        for batch in batches:
            model(**{name: batch[name].to(model.device) for name in INPUTS if name in batch})
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self._found = [model.eval()]  # in a list: it is no part of this module

    def forward(self, batch: Batch, needs: Needs) -> View:
        shown = self.model(**{name: batch[name] for name in INPUTS if name in batch}, output_hidden_states=bool(needs.hidden))
        return View(dict(enumerate(shown.hidden_states or ())), readout=partial(_rows, shown.logits))


def student(
    teacher: Encoder, *, cells: int, embeddings: Embeddings, vocabulary: Vocabulary | None = None, **shape: Any
) -> SearchNetwork:
    """cells: the most there can be. vocabulary: which of the teacher's tokens it reads; None: all. shape: see
    `adabert.config_for`."""
    teacher = fitting(teacher, vocabulary)
    network = SearchNetwork(config_for(teacher, architecture=LARGEST, **shape), cells, teacher.tokenizer)
    set_words(network.body.embeddings, embeddings(teacher.tokenizer, teacher))
    return network
