"""The pictures of a report: each function returns one picture as SVG that stands inside a page.

Text stays text (it is found, read aloud and shown in the reader's own fonts); what it says is escaped by matplotlib and
never taken for mathematics. Colours are those of Okabe and Ito 2008, which the colour-blind tell apart.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from torch import Tensor

from kd_lightning.report.measure import Bin
from kd_lightning.run.choice import Candidate, front
from kd_lightning.run.reading import Curve

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#6b6b6b"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)
STYLES = ("-", "--", ":", "-.")  # so that lines are told apart without colours
MARKERS = ("o", "s", "^", "D")
MOST_CLASSES = 20
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kd-lightning",
    "text.parse_math": False,
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "figure.constrained_layout.use": True,
}


@contextmanager
def _drawn(title: str, width: float = 4.6, height: float = 3.2) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on; the list then holds the SVG."""
    result: list[str] = []
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # the reader's fonts have it
        figure, axes = pyplot.subplots(figsize=(width, height))
        try:
            axes.set_title(title, loc="left")
            yield axes, result
            file = io.StringIO()
            figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
            result.append(file.getvalue()[file.getvalue().index("<svg") :])
        finally:
            pyplot.close(figure)


def short(text: str, most: int = 26) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def curve(title: str, lines: dict[str, Curve]) -> str:
    with _drawn(title) as (axes, result):
        for number, (name, points) in enumerate(lines.items()):
            steps, values = zip(*points, strict=True)
            marker = MARKERS[number % 4] if len(points) < 15 else None
            style = {"color": COLOURS[number % 4], "linestyle": STYLES[number % 4], "marker": marker, "markersize": 4}
            axes.plot(steps, values, label=name, **style)
        axes.set_xlabel("step")
        if len(lines) > 1:
            axes.legend(frameon=False)
    return result[0]


def pareto(points: list[Candidate], cost: str, score: str) -> str:
    """cost, score: what they are, with the unit."""
    best = front(points)
    with _drawn(f"{score} against {cost}", height=3.6) as (axes, result):
        axes.step([one.cost for one in best], [one.score for one in best], where="post", color=GREY, linestyle="--", zorder=1)
        for one in points:
            unbeaten = one in best
            axes.scatter(
                one.cost, one.score, s=45, color=BLUE if unbeaten else ORANGE, marker="o" if unbeaten else "X", zorder=2
            )
        middle = sum(axes.get_xlim()) / 2
        for name, x, y in [(one.name, one.cost, one.score) for one in (points if len(points) <= 6 else best)]:
            left = x > middle  # the names of more would overlap; the table has all
            axes.annotate(
                short(name), (x, y), xytext=(-7 if left else 7, 6), textcoords="offset points", ha="right" if left else "left"
            )
        axes.margins(0.12, 0.18)
        axes.set_xlabel(cost)
        axes.set_ylabel(score)
    return result[0]


def confusion(title: str, counts: Tensor, labels: list[str]) -> str:
    """counts: [C, C]; shares of each row as colour, counts as numbers."""
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    names = [short(label, 18) for label in labels]
    return _grid(title, shares, [[str(int(cell)) for cell in row] for row in counts], (names, "right"), (names, "answered"))


def layers(title: str, distances: Tensor) -> str:
    """distances: [student's layers, teacher's], 0 to 1; the darker, the nearer."""
    rows, columns = ([str(number) for number in range(size)] for size in distances.shape)
    cells = [[f"{float(cell):.2f}" for cell in row] for row in distances]
    return _grid(title, distances, cells, (rows, "student's layer"), (columns, "teacher's layer"))


def _grid(
    title: str, shades: Tensor, cells: list[list[str]], rows: tuple[list[str], str], columns: tuple[list[str], str]
) -> str:
    """shades: [R, C], 0 (dark) to 1. rows, columns: the names of each, and what they are."""
    width, height = (min(7.0, 2.6 + 0.4 * len(names)) for names, _ in (columns, rows))
    with _drawn(title, width, height) as (axes, result):
        axes.imshow(shades.numpy(), cmap="cividis", vmin=0, vmax=1)
        axes.grid(False)
        upright = max(map(len, columns[0])) <= 2 or len(columns[0]) <= 3
        axes.set_xticks(range(len(columns[0])), columns[0], rotation=0 if upright else 90)
        axes.set_yticks(range(len(rows[0])), rows[0])
        axes.set_xlabel(columns[1])
        axes.set_ylabel(rows[1])
        for row, line in enumerate(cells):
            for column, cell in enumerate(line):
                colour = "black" if shades[row, column] > 0.5 else "white"
                axes.text(column, row, cell, ha="center", va="center", color=colour, fontsize=8)
    return result[0]


def calibration(lines: dict[str, list[Bin]]) -> str:
    with _drawn("calibration", height=3.6) as (axes, result):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="perfect")
        for number, (name, bins) in enumerate(lines.items()):
            x, y = [each.confidence for each in bins], [each.accuracy for each in bins]
            axes.plot(x, y, label=name, color=COLOURS[number], linestyle=STYLES[number], marker=MARKERS[number])
        axes.set_xlabel("confidence")
        axes.set_ylabel("share right")
        axes.legend(frameon=False)
    return result[0]


def bars(title: str, values: dict[str, float], low: float) -> str:
    """Lying bars from zero; the axis goes from low to 1."""
    with _drawn(title, height=1.4 + 0.28 * len(values)) as (axes, result):
        places = range(len(values))
        axes.barh(places, list(values.values()), color=BLUE)
        for place, value in zip(places, values.values(), strict=True):
            axes.text(max(value, 0) + 0.01, place, f"{value:.2f}", va="center", fontsize=9)
        axes.set_yticks(places, [short(name) for name in values])
        axes.invert_yaxis()
        axes.set_xlim(low, 1.15)
        axes.axvline(0, color=GREY, linewidth=1)
        axes.grid(False, axis="y")
    return result[0]


def parallel(axes_of: dict[str, list[str]], values: list[float], best: int) -> str:
    """A line for each job through what it set and found, the best one in the accent's colour.

    axes_of: setting -> what each job set. Numbers are placed by their size, names side by side.
    """
    names = [*axes_of, "value"]
    with _drawn("jobs of the sweep", max(4.6, 1.9 * len(names)), 3.6) as (axes, result):
        heights = []
        for place, cells in enumerate([*axes_of.values(), [f"{value:.4f}" for value in values]]):
            ticks = _placed(cells)
            heights.append([ticks[cell] for cell in cells])
            axes.axvline(place, color=GREY, linewidth=1)
            shown = ticks if place < len(axes_of) else {c: h for c, h in ticks.items() if h in (0.0, 1.0, 0.5)}
            for cell, height in shown.items():
                axes.text(place + 0.04, height, short(cell, 14), va="center", fontsize=9, zorder=3)
        for job in [*(n for n in range(len(values)) if n != best), best]:
            accent = job == best
            line = [height[job] for height in heights]
            axes.plot(line, color=ORANGE if accent else BLUE, alpha=1 if accent else 0.5, linewidth=3 if accent else 1.3)
        axes.set_xticks(range(len(names)), [short(name.rpartition(".")[2], 18) for name in names])
        axes.set_yticks([])
        axes.set_xlim(-0.1, len(names) - 0.6)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.grid(False)
    return result[0]


def _placed(cells: list[str]) -> dict[str, float]:
    """Cell -> its height, 0 to 1."""
    try:
        size = {cell: float(cell) for cell in cells}
    except ValueError:
        size = {cell: float(place) for place, cell in enumerate(sorted(set(cells)))}
    low, high = min(size.values()), max(size.values())
    return {cell: (value - low) / (high - low) if high > low else 0.5 for cell, value in size.items()}
