"""Names for people: what differs from the defaults, in a few words."""

import re

from kd_lightning.run.identity import DATA, MODELS, Settings

MOST = 4  # words of a stage
UNTOLD = ("reader", "corpus", "metrics", "labels")  # settings whose differences make no words


def differences(flat: Settings, default: Settings) -> dict[str, str]:
    """Setting -> "attention=0", for the first few that differ."""
    words = {}
    for key, value in flat.items():
        *groups, last = key.split(".")
        if value == default.get(key) or set(groups) & set(UNTOLD) or last in (*MODELS, *DATA) or "seed" in last:
            continue
        if last == "_target_":
            words[groups[-1]] = file_name(f"{groups[-1]}={value.rpartition('.')[2]}")
        elif key in default and isinstance(value, str | int | float) and not last.startswith("_"):
            words[last] = file_name(f"{last}={value}")
    return dict(list(words.items())[:MOST])


def file_name(text: str) -> str:
    """Text that may be a part of a file's name."""
    return re.sub(r"[^\w.=+-]", "_", str(text))[:40]
