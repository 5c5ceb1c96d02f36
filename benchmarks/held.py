"""How much memory a process has held."""

import re
import resource
import sys
from pathlib import Path

MB = 1_000_000


def most_held() -> float:
    """The largest resident set of this process so far, in MB."""
    status = Path("/proc/self/status")  # ru_maxrss of a child also counts what its parent held when it was forked
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text(encoding="ascii"))[1]) * 1024 / MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MB
