"""A run's .wandb file read by W&B's own message classes. The file is a log of records in blocks, as LevelDB's."""

import json
import struct
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, BEGIN, HEAD = 32768, 7, 7  # bytes


def records(file: Path) -> list[Record]:
    data, place, parts, found = file.read_bytes(), BEGIN, b"", []
    assert data[:4] == b":W&B"
    while place + HEAD <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEAD:
            place += left
            continue
        size, kind = struct.unpack("<4xHB", data[place : place + HEAD])
        parts += data[place + HEAD : place + HEAD + size]
        place += HEAD + size
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(parts))
            parts = b""
    return found


def run(file: Path) -> dict[str, Any]:
    """What the file says of its run: id, name, group, job_type, tags, notes, project, sweep, config and exit code; its
    history, row by row; the artifacts that it used and made, and their files, each with what it refers to or ""."""
    known: dict[str, Any] = {"history": [], "config": {}, "used": [], "made": [], "files": {}, "exit": None}
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            about = record.run
            known |= {"id": about.run_id, "name": about.display_name, "group": about.run_group, "job_type": about.job_type}
            known |= {"tags": list(about.tags), "notes": about.notes, "project": about.project, "sweep": about.sweep_id}
            known["start"] = about.start_time.ToNanoseconds()
            known["config"] |= {item.key: json.loads(item.value_json) for item in about.config.update}
        elif kind == "config":
            known["config"] |= {(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in record.config.update}
        elif kind == "history":
            known["history"].append({(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in record.history.item})
        elif kind == "artifact":
            known["used" if record.artifact.use_after_commit else "made"].append(record.artifact.name)
            known["files"][record.artifact.name] = {e.path: e.ref for e in record.artifact.manifest.contents}
        elif kind == "exit":
            known["exit"] = record.exit.exit_code
    return known


def runs(folder: Path) -> list[dict[str, Any]]:
    """Of all files below, in the order in which they were begun."""
    return sorted(map(run, folder.rglob("*.wandb")), key=lambda run: run["start"])
