"""The code of our own kinds of model beside their weights, so that plain transformers can load them from the hub by
`trust_remote_code=True`. Nothing of ours does: we import the package, and what lies in a folder is never run.
"""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, PreTrainedModel

OURS = "kd_lightning.student."
AUTO = (AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification)


def add_code(model: PreTrainedModel, folder: Path) -> None:
    """Write the files that make this kind of model, and let the model's configuration name them (`auto_map`): to be done before
    the configuration is saved. A model of transformers' own needs none."""
    module = type(model).__module__
    if not module.startswith(OURS):
        return
    kind = type(model.config)
    configuration = f"{_name(kind.__module__)}.{kind.__name__}"
    classes = {auto.__name__: auto._model_mapping[kind] for auto in AUTO if kind in auto._model_mapping}
    named = {name: f"{_name(found.__module__)}.{found.__name__}" for name, found in classes.items()}
    model.config.auto_map = {"AutoConfig": configuration, **named}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in _files(module).items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")


def _files(module: str) -> dict[str, str]:
    """The module and what it reads of ours, as files that lie side by side and register nothing."""
    found: dict[str, str] = {}
    wanted = [module]
    while wanted:
        module = wanted.pop()
        text = Path(find_spec(module).origin).read_text(encoding="utf-8")
        read = [node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
        text = re.sub(rf"^from {re.escape(OURS)}(?:\w+\.)*(\w+) import", r"from .\1 import", text, flags=re.MULTILINE)
        found[_name(module)] = re.sub(r"^Auto\w+\.register\(.*\)\n", "", text, flags=re.MULTILINE).rstrip() + "\n"
        wanted += [name for name in read if name.startswith(OURS) and _name(name) not in found]
    return found


def _name(module: str) -> str:
    return module.rpartition(".")[2]
