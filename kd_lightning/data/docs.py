"""Demo data without a download: the English prose in the docstrings of the installed Python and of some packages.

A document is one docstring, or one text of the files in `prose.WHOLE`. `build`
writes running text (corpus.txt) and two tasks as tab-separated values:

    docs_topic   which package is the paragraph from? No paragraph names one of the packages.
    docs_pair    is the second paragraph the next one in the docstring of the first (`follows`), or is it from another
                 docstring of the same package (`random`)?

The train, dev, test and unlabelled rows share no docstring and no paragraph, and corpus.txt holds no dev and no
test docstring. Fields are never quoted; the first line of a .tsv file names the columns.
"""

import importlib.metadata
import importlib.util
import itertools
import json
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from kd_lightning.data.prose import key, pieces, prose, texts
from kd_lightning.keep import keep

FORMAT = 3  # raise when the text or the tasks change: folders of another format are left alone
PACKAGES = (  # what a run needs anyway and brings prose; the first to hold a paragraph keeps it
    *("torch", "transformers", "datasets", "huggingface_hub", "lightning", "torchmetrics"),
    *("numpy", "pandas", "sympy", "networkx", "wandb", "rich"),
)
TOPICS = (  # the classes of docs_topic: those with text enough for an equal part each
    *("huggingface_hub", "lightning", "networkx", "numpy", "pandas"),
    *("python", "sympy", "torch", "transformers", "wandb"),
)
GIVEAWAY = {"pytorch", "hugging", "huggingface", "w&b", "biases"}  # other names of the packages (Weights & Biases)
SPLITS = {  # share of the docstrings, rows at most
    "test": (0.08, 1000),
    "dev": (0.08, 1000),
    "train": (0.16, 2000),
    "unlabelled": (0.68, 20_000),
}
SKIP = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "vendor", "_vendor", "vendored"}


class Source(NamedTuple):
    """A package whose files are read."""

    name: str
    version: str
    folder: Path


class Document(NamedTuple):
    """The paragraphs of one docstring."""

    package: str
    split: str
    paragraphs: list[str]


def installed() -> list[Source]:
    """Those of PACKAGES that are there, and the standard library last."""
    found = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec and spec.origin:  # a folder of that name without code has no origin
            found.append(Source(name, importlib.metadata.version(name), Path(spec.origin).parent))
    return [*found, Source("python", platform.python_version(), Path(sysconfig.get_paths()["stdlib"]))]


def digest(text: str) -> int:
    """A number below 2**64 that is the same on every machine."""
    return int.from_bytes(blake2b(text.encode(errors="replace"), digest_size=8).digest())


def split_of(text: str) -> str:
    """The split that a docstring falls into, by its text alone."""
    place = digest(text) / 2**64
    for name, (share, _) in SPLITS.items():
        if place < share:
            return name
        place -= share
    return "unlabelled"


def documents(sources: list[Source]) -> Iterator[Document]:
    """Every docstring with prose in it; of paragraphs that say the same, only the first is kept."""
    files = [(source, file) for source in sources for file in sorted(source.folder.rglob("*.py"))]
    seen: set[str] = set()
    for source, file in tqdm(files, desc="Reading docstrings", unit=" files", disable=None):
        if SKIP.intersection(file.relative_to(source.folder).parts):
            continue
        for text in texts(file):
            paragraphs = []
            for paragraph in filter(None, map(prose, pieces(text))):
                if (same := key(paragraph)) not in seen:
                    seen.add(same)
                    paragraphs.append(paragraph)
            if paragraphs:
                yield Document(source.name, split_of(text), paragraphs)


def shuffled(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The rows in an order that depends on nothing but their text."""
    return sorted(rows, key=lambda row: (digest("\t".join(row)), row))


def topic_rows(found: list[Document]) -> dict[str, list[tuple[str, ...]]]:
    """(paragraph, package) for each split: as many of each topic as there are, up to an equal part of the rows."""
    names = GIVEAWAY.union(d.package for d in found)
    chosen = {}
    for split, (_, most) in SPLITS.items():
        held = ((p, d.package) for d in found if d.split == split for p in d.paragraphs)
        rows = shuffled(row for row in held if names.isdisjoint(re.findall(r"[a-z&]+", row[0].lower())))
        parts = ([row for row in rows if row[-1] == topic][: most // len(TOPICS)] for topic in TOPICS)
        chosen[split] = shuffled(itertools.chain.from_iterable(parts))
    return chosen


def pair_rows(found: list[Document]) -> dict[str, list[tuple[str, ...]]]:
    """(paragraph, paragraph, label) for each split, half of them `follows`.

    The `random` rows are neighbours too, whose second paragraphs went round to the next row of the package: neither
    paragraph alone tells the label.
    """
    chosen = {}
    for split, (_, most) in SPLITS.items():
        home = {p: (d.package, n) for n, d in enumerate(found) if d.split == split for p in d.paragraphs}
        pairs = (pair for d in found if d.split == split for pair in itertools.pairwise(d.paragraphs))
        by_package: dict[str, list[tuple[str, ...]]] = {}
        for pair in shuffled(pairs)[:most]:
            by_package.setdefault(home[pair[0]][0], []).append(pair)
        rows: list[tuple[str, ...]] = []
        for mine in by_package.values():
            kept, moved = mine[: len(mine) // 2], mine[len(mine) // 2 :]
            turned = zip(moved, moved[1:] + moved[:1], strict=True)
            strangers = [(a, b) for (a, _), (_, b) in turned if home[a] != home[b]]
            half = min(len(kept), len(strangers))
            rows += [(*pair, "follows") for pair in kept[:half]] + [(*pair, "random") for pair in strangers[:half]]
        chosen[split] = shuffled(rows)
    return chosen


def write(folder: Path, sources: list[Source]) -> None:
    """Make the folder: two tasks, the corpus without the dev and test docstrings, and about.json."""
    found = list(documents(sources))
    tasks = {
        "docs_topic": (("sentence", "label"), topic_rows(found)),
        "docs_pair": (("sentence1", "sentence2", "label"), pair_rows(found)),
    }
    contents, about = {}, {}
    for task, (header, splits) in tasks.items():
        for split, rows in splits.items():
            file = f"{task}/{split}.tsv"
            labels = Counter(row[-1] for row in rows)
            about[file] = {"rows": len(rows), "labels": dict(sorted(labels.items()))}
            about[file]["majority"] = round(max(labels.values(), default=0) / max(1, len(rows)), 3)
            width = len(header) - (split == "unlabelled")
            contents[file] = "".join("\t".join(row[:width]) + "\n" for row in [header, *rows])
    kept = [d.paragraphs for d in found if d.split not in ("dev", "test")]
    contents["corpus.txt"] = "\n".join("".join(p + "\n" for p in paragraphs) for paragraphs in kept)
    about["corpus.txt"] = {
        "documents": len(kept),
        "paragraphs": sum(map(len, kept)),
        "words": len(contents["corpus.txt"].split()),
        "characters": len(contents["corpus.txt"]),
    }
    folder.mkdir()
    for file, text in contents.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(text.encode())
    described = {"sources": {s.name: s.version for s in sources}, "files": about}
    (folder / "about.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def build(cache: Path) -> Path:
    """The folder of the demo data under cache: made the first time (well under a minute), checked and reused later.

    Its name depends on the versions of everything that the text is from, so that a stale one is never used.
    """
    sources = installed()
    versions = " ".join(f"{s.name}={s.version}" for s in sources)
    folder = Path(cache) / f"docs-{digest(f'{FORMAT} {versions}'):016x}"
    return keep(folder, lambda scratch: write(scratch, sources))
