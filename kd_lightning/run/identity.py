"""What an artifact is made of, as one digest: the settings that its training reads, and the content of what it reads.

Two stages of equal identity leave the same artifact, whatever was typed to ask for it. Where a thing lies and on what machine
it is made do not count. A file counts by its content (a very large one by size and time), an artifact by its own identity, any
other model by its files, and a hub name by its revision.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from kd_lightning import manifest
from kd_lightning.run import record

PARTS = ("seed", "start", "networks", "distiller", "data", "optim", "trainer", "callback", "metric", "keep", "export_dtype")
MACHINE = ("accelerator", "devices", "num_nodes", "strategy", "log_every_n_steps", "cache", "workers", "progress")
MODELS, DATA = ("path", "tokenizer"), ("source", "file", "files", "vectors", "hub")  # settings that name something outside
SEEDS = ("seed", "random_seed")
LARGE = 1 << 30  # bytes; above, a file counts by size and time
UNREAD = ("README.md", "metrics.json", "predictions.parquet", manifest.FILE, record.FILE)  # of a folder: these make no model
ARTIFACT = "artifact:"

Settings = dict[str, Any]


def settings(stage: dict[str, Any]) -> Settings:
    """What a stage's training reads, flat: "optim.lr" -> 3e-5. stage: resolved. What lies outside is there by its content."""
    return dict(leaf for part in PARTS if part in stage for leaf in _leaves(part, stage[part]))


def digest(flat: Settings) -> str:
    """16 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(flat, sort_keys=True).encode(), digest_size=8).hexdigest()


def without_seeds(flat: Settings) -> Settings:
    return {name: value for name, value in flat.items() if name.rpartition(".")[2] not in SEEDS}


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    last = name.rpartition(".")[2]
    if last in MACHINE:
        return
    if last in MODELS or last in DATA:
        yield name, _content(value, "model" if last in MODELS else "dataset")
    elif isinstance(value, dict):
        if isinstance(value.get("root"), str):  # of a local copy of GLUE the task's own folder counts, and the hub does not
            value = {key: inner for key, inner in value.items() if not key.startswith("hub")}
            value["root"] = _content(str(Path(value["root"], value["folder"])), "dataset")
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    else:  # 1 and 1.0 are one number
        yield name, int(value) if isinstance(value, float) and value.is_integer() else value


def _content(value: Any, kind: str) -> Any:
    if isinstance(value, dict):
        return {key: _content(inner, kind) for key, inner in value.items()}
    if isinstance(value, list):
        return [_content(inner, kind) for inner in value]
    if not isinstance(value, str) or value.startswith(ARTIFACT):
        return value
    path = Path(value).expanduser()
    if path.is_file():
        return _file(path)
    if path.is_dir():
        return _folder(path)
    return _revision(value.partition(":")[0], kind, value) if re.fullmatch(r"[\w.-]+/[\w.-]+(:\S+)?", value) else value


def _file(path: Path) -> str:
    about = path.stat()
    if about.st_size > LARGE:
        return f"{about.st_size} bytes of {about.st_mtime_ns}"
    return _hashed(path, about.st_size, about.st_mtime_ns)


@cache
def _hashed(path: Path, size: int, time: int) -> str:
    """size, time: by which a file that has changed is told from what it was."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _folder(path: Path) -> str:
    """An artifact's identity, or the content of the files of a model or of data."""
    if (path / record.FILE).is_file():
        manifest.check(path)
        return ARTIFACT + record.read(path).identity
    files = sorted(file for file in path.iterdir() if file.is_file() and file.name not in UNREAD)
    return digest({file.name: _file(file) for file in files})


@cache
def _revision(name: str, kind: str, value: str) -> str:
    """With the commit that the local cache of the hub has, or else the hub; the name alone where neither is reached."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    kept = Path(constants.HF_HUB_CACHE, f"{kind}s--{name.replace('/', '--')}", "refs", "main")
    if kept.is_file():
        return f"{value}@{kept.read_text(encoding='utf-8').strip()}"
    file = "config.json" if kind == "model" else "README.md"
    with suppress(OSError, HfHubHTTPError, HFValidationError):  # nothing is lost: whoever loads it says what is wrong
        return f"{value}@{Path(hf_hub_download(name, file, repo_type=kind)).parent.name}"
    return value
