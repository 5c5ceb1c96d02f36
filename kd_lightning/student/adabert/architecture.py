"""The architectures that AdaBERT searches among: one cell, repeated, and the name of the operation on each of its edges.

A cell has the nodes 0 and 1, the outputs of the two cells before it, and inner nodes 2, 3, 4, each with an edge from every
earlier node (Chen et al. 2020, arXiv 2001.04246, after DARTS). A file says it like this; an edge that is not named is absent:

    {"cells": 4, "nodes": {"2": {"0": "conv_7", "1": "dilated_5"}, "3": {"0": "max_pool"}, "4": {"3": "identity"}}}
"""

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

INNER = (2, 3, 4)
EDGES = tuple((source, node) for node in INNER for source in range(node))
KERNELS = {  # name -> (taps, dilation)
    "conv_3": (3, 1),
    "conv_5": (5, 1),
    "conv_7": (7, 1),
    "dilated_3": (3, 2),
    "dilated_5": (5, 2),
    "dilated_7": (7, 2),
}
POOLS = ("max_pool", "average_pool")
OPERATIONS = (*KERNELS, *POOLS, "identity", "zero")  # the order of the search's variables
KEPT = 2  # edges into a node that a derived architecture keeps
DRAWS = 100_000


def size(operation: str, channels: int) -> int:
    """Parameters, a bias included as the paper's costs have it (Convolution itself has none)."""
    return channels * channels * KERNELS[operation][0] + channels if operation in KERNELS else int(operation not in POOLS)


def work(operation: str, channels: int, length: int) -> int:
    """Multiply-adds on a text of this length, as the paper's costs count them: three further for each number that a
    convolution gives (bias, activation, normalisation), two for each that a pool gives, 1 in all for what computes nothing."""
    if operation in KERNELS:
        return (channels * KERNELS[operation][0] + 3) * channels * length
    return 2 * channels * length if operation in POOLS else 1


@dataclass(frozen=True)
class Architecture:
    """cells: how many; edges: (source, node) -> operation, without zeros."""

    cells: int
    edges: Mapping[tuple[int, int], str]

    def as_dict(self) -> dict[str, Any]:
        nodes: dict[str, dict[str, str]] = {}
        for (source, node), operation in sorted(self.edges.items(), key=lambda edge: edge[0][::-1]):
            nodes.setdefault(str(node), {})[str(source)] = operation
        return {"cells": self.cells, "nodes": nodes}

    def __str__(self) -> str:
        listed = sorted(self.edges.items(), key=lambda edge: edge[0][::-1])
        return f"{self.cells} cells of " + ", ".join(f"{s}>{n} {operation}" for (s, n), operation in listed)

    @property
    def taps(self) -> int:
        """The taps of all convolutions of a cell; times channels² they are the cell's parameters."""
        return sum(KERNELS[operation][0] for operation in self.edges.values() if operation in KERNELS)

    def work(self, channels: int, length: int) -> int:
        """Multiply-adds of all cells on a text of this length."""
        return self.cells * sum(work(operation, channels, length) for operation in self.edges.values())


def from_dict(given: Any, where: str) -> Architecture:
    """The architecture that `as_dict` gave. Raises ValueError with a sentence that begins with where."""
    cells, nodes = (given.get("cells"), given.get("nodes")) if isinstance(given, dict) else (None, None)
    if not (isinstance(cells, int) and cells > 0 and isinstance(nodes, dict)):
        raise ValueError(f'{where} is no architecture; {{"cells": 3, "nodes": {{"2": {{"0": "conv_3"}}}}}} is one.')
    edges = {}
    for node, incoming in nodes.items():
        for source, operation in incoming.items():
            edge = next((e for e in EDGES if (str(e[0]), str(e[1])) == (str(source), str(node))), None)
            if edge is None:
                raise ValueError(
                    f"{where}: a cell has no edge from node {source} to {node}. Its edges lead from any node to a "
                    f"later one of {', '.join(map(str, INNER))}."
                )
            if operation not in OPERATIONS[:-1]:
                raise ValueError(
                    f"{where}: '{operation}' is no operation. Choose from {', '.join(OPERATIONS[:-1])}, and leave "
                    "out an edge that is to carry nothing."
                )
            edges[edge] = operation
    if not edges:
        raise ValueError(f"{where}: a cell without edges computes nothing. Name one at least.")
    return Architecture(cells, edges)


def read(path: str | Path) -> Architecture:
    """From a file, or from the folder that a search left."""
    file = Path(path).expanduser()
    file = file / "architecture.json" if file.is_dir() else file
    if not file.is_file():
        raise ValueError(f"student.path={path}: no architecture is there. Give a JSON file, or what stage=search left.")
    try:
        return from_dict(json.loads(file.read_text(encoding="utf-8")), str(file))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON ({error}).") from error


def derive(edges: Tensor, depth: Tensor) -> Architecture:
    """What a search has found. edges [9, 10]: logits of each operation on each edge; depth [K]: logits of 1..K cells.

    Each node keeps the two edges whose best operation is the most probable; the first ones where several are equal. Zero is
    never the best operation.
    """
    probability, best = edges.float().softmax(-1)[:, :-1].max(-1)
    kept = {}
    for node in INNER:
        incoming = sorted((i for i, edge in enumerate(EDGES) if edge[1] == node), key=lambda i: -float(probability[i]))
        kept |= {EDGES[i]: OPERATIONS[int(best[i])] for i in sorted(incoming[:KEPT])}
    return Architecture(int(depth.argmax()) + 1, kept)


def random_like(architecture: Architecture, seed: int) -> Architecture:
    """A random architecture of as many cells and, within a twentieth, as many convolution weights. Two edges into each node and
    their operations are drawn uniformly until the weights are as many."""
    draw = random.Random(seed)
    for _ in range(DRAWS):
        kept = [(source, node) for node in INNER for source in sorted(draw.sample(range(node), KEPT))]
        found = Architecture(architecture.cells, {edge: draw.choice(OPERATIONS[:-1]) for edge in kept})
        if found.edges != architecture.edges and math.isclose(found.taps, architecture.taps, rel_tol=0.05):
            return found
    raise ValueError(f"a random architecture like {architecture}: none of {DRAWS:,} has as many weights.")


def picture(architecture: Architecture) -> str:
    """The cell as an SVG: nodes from left to right, edges as arcs with their operations."""
    place = {node: 60 + 150 * node for node in range(6)}
    parts = []
    for node in INNER:
        arcs = [(source, name) for (source, to), name in architecture.edges.items() if to == node]
        for source, name in [*arcs, (node, "")]:
            start, end = (place[source], place[node]) if name else (place[node], place[5])
            height = 150 - 0.45 * (end - start) if name else 150 + 0.45 * (end - start)
            middle, label = (start + end) / 2, (150 + height) / 2
            colour = "black" if name else "silver"
            parts.append(f'<path d="M{start} 150 Q{middle} {height} {end} 150" fill="none" stroke="{colour}"/>')
            parts.append(f'<text x="{middle}" y="{label - 4}" text-anchor="middle">{name}</text>' if name else "")
    for node, x in place.items():
        parts.append(f'<circle cx="{x}" cy="150" r="16" fill="white" stroke="black"/>')
        parts.append(f'<text x="{x}" y="154" text-anchor="middle">{"out" if node == 5 else node}</text>')
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="870" height="300" font-family="sans-serif" font-size="12">'
    told = f"Cells of this kind: {architecture.cells}. Nodes 0 and 1: the outputs of the two before."
    title = f'<text x="10" y="290">{told}</text>'
    return "\n".join([head, '<rect width="870" height="300" fill="white"/>', title, *filter(None, parts), "</svg>\n"])
