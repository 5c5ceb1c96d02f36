"""Importing the package is cheap, and makes its kinds of model known to plain transformers, whichever is imported first."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kd_lightning.student.bow import BowConfig, BowForSequenceClassification

ROOT = Path(__file__).parents[1]
LOAD = "print(type(AutoModelForSequenceClassification.from_pretrained(folder)).__name__)"
ORDERS = {
    "it first": f"import kd_lightning; from transformers import AutoModelForSequenceClassification; {LOAD}",
    "transformers first": f"from transformers import AutoModelForSequenceClassification; import kd_lightning; {LOAD}",
    "transformers first, and nothing of it": "import transformers; import kd_lightning\n"
    f"from transformers import AutoModelForSequenceClassification; {LOAD}",
    "what imports transformers itself between them": "import kd_lightning; import torchmetrics\n"
    f"from transformers import AutoModelForSequenceClassification; {LOAD}",
    "a module of it first": f"from kd_lightning.encoder import AutoModelForSequenceClassification; {LOAD}",
    "the tokenizer's class first": "import kd_lightning\n"
    "from transformers import AutoTokenizer, AutoModelForSequenceClassification\n"
    f"AutoTokenizer.from_pretrained(folder); {LOAD}",
    "the configuration's class, by its module": "import kd_lightning\n"
    "from transformers.models.auto.configuration_auto import AutoConfig\n"
    "print(AutoConfig.from_pretrained(folder).architectures[0])",
}
THREADS = """
import kd_lightning, threading
from transformers import AutoModelForSequenceClassification  # which transformers cannot do in several threads at once
found, at_once = [], threading.Barrier(6)

def load():
    at_once.wait()
    found.append(type(AutoModelForSequenceClassification.from_pretrained(folder)).__name__)

threads = [threading.Thread(target=load) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*found)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory, make_tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    config = BowConfig(vocab_size=97, embedding_size=4, hidden_size=4, channels=1, pad_token_id=0, num_labels=2)
    BowForSequenceClassification(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def run(script: str, root: Path = ROOT) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, env=env, cwd=root)


def test_importing_it_imports_neither_torch_nor_transformers():
    heavy = "{'torch', 'transformers', 'lightning', 'datasets', 'numpy', 'importlib.resources'}"
    done = run(f"import kd_lightning, sys; print(sorted({heavy} & set(sys.modules)), kd_lightning.__file__)")
    assert done.stdout.split(" ", 1) == ["[]", f"{ROOT / 'kd_lightning' / '__init__.py'}\n"], done.stderr


@pytest.mark.parametrize("module", ["train", "run.sweep"])
def test_what_every_command_line_imports_is_light(module):
    """Hydra makes run.sweep's callback for --cfg and --help too."""
    done = run(f"import kd_lightning.{module}, sys; print(sorted({{'torch', 'transformers', 'lightning'}} & set(sys.modules)))")
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("order", ORDERS)
def test_its_kinds_are_known_in_every_order_of_imports(order, saved):
    done = run(f"folder = {str(saved)!r}\n{ORDERS[order]}")
    assert done.stdout.split() == ["BowForSequenceClassification"], done.stderr


def test_its_kinds_are_unknown_without_it(saved):
    done = run(f"folder = {str(saved)!r}\nfrom transformers import AutoModelForSequenceClassification; {LOAD}")
    assert "kd_bow" in done.stderr
    assert done.returncode == 1


def test_its_kinds_are_known_to_all_threads(saved):
    done = run(f"folder = {str(saved)!r}\n{THREADS}")
    assert done.stdout.split() == ["BowForSequenceClassification"] * 6, done.stderr


def test_a_new_student_needs_nothing_but_its_own_file(saved, tmp_path):
    shutil.copytree(ROOT / "kd_lightning", tmp_path / "kd_lightning", ignore=shutil.ignore_patterns("__pycache__"))
    new = (ROOT / "kd_lightning" / "student" / "bow.py").read_text(encoding="utf-8").replace("Bow", "New")
    (tmp_path / "kd_lightning" / "student" / "some").mkdir()
    (tmp_path / "kd_lightning" / "student" / "some" / "new.py").write_text(new.replace("kd_bow", "kd_new"), encoding="utf-8")
    folder = shutil.copytree(saved, tmp_path / "saved")
    config = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(config.replace("Bow", "New").replace("kd_bow", "kd_new"), encoding="utf-8")
    done = run(f"folder = {str(folder)!r}\n{ORDERS['it first']}", tmp_path)
    assert done.stdout.split() == ["NewForSequenceClassification"], done.stderr
