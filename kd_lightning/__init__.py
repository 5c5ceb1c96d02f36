"""Importing the package makes its own kinds of model known to transformers' Auto classes, and yet imports neither of the two.

The kinds are imported when `AutoConfig.from_pretrained`, through which every Auto class finds a kind, is first called: not
while transformers is imported, when half of it would be missing. A new student file needs nothing but its own
`AutoConfig.register(...)`.
"""

import functools
import importlib
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

AUTO = "transformers.models.auto.configuration_auto"


@functools.cache
def _register() -> None:
    """Import the students that have a kind of model of their own."""
    root = Path(__file__).parent
    for file in sorted((root / "student").rglob("*.py")):
        if "AutoConfig.register(" in file.read_text(encoding="utf-8"):
            importlib.import_module(".".join([__name__, *file.relative_to(root).with_suffix("").parts]))


def _prepare(auto: ModuleType) -> None:
    """Let AutoConfig.from_pretrained register our kinds first."""
    original = auto.AutoConfig.from_pretrained.__func__

    @functools.wraps(original)
    def from_pretrained(cls: type, *args, **kwargs):
        _register()
        return original(cls, *args, **kwargs)

    auto.AutoConfig.from_pretrained = classmethod(from_pretrained)


class _Finder:
    """Prepares transformers' AutoConfig as soon as somebody imports it."""

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != AUTO:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _prepare(module)

            spec.loader.exec_module = exec_module
        return spec


if AUTO in sys.modules:
    _prepare(sys.modules[AUTO])
else:
    sys.meta_path.insert(0, _Finder())
