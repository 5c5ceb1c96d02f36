"""The house keeps its own rules: imports point one way, files stay small."""

import ast
import importlib
import re
from pathlib import Path

import plant_bugs
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kd_lightning"
FILES = {str(path.relative_to(PACKAGE).with_suffix("")): path for path in sorted(PACKAGE.rglob("*.py"))}
CORE = {  # module -> what of ours it may import
    "views": set(),
    "losses": set(),
    "layer_maps": set(),
    "chunks": {"views"},
    "projection": {"views"},
    "terms": {"views", "losses", "layer_maps", "chunks", "projection"},
    "together": set(),
    "objective": {"views", "terms", "together"},
    "finite": set(),
    "reach": {"views"},
    "once": {"views"},
    "distiller": {"views", "terms", "objective", "once", "finite", "reach"},
    "dropout": set(),
    "attention": {"dropout"},
    "tokenizer_check": set(),
    "pairing": {"views", "tokenizer_check"},
    "encoder": {"views", "attention", "dropout", "pairing"},
    "trim": {"encoder"},
}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
            found.add(node.module or ".")
            if node.level:
                found.add("." * node.level)
    return found


def ours(name: str) -> set[str]:
    """Of these, modules of this package: "data/batches" for kd_lightning.data.batches."""
    dotted = {module.removeprefix("kd_lightning.").replace(".", "/") for module in imported(FILES[name])}
    return dotted & FILES.keys()


def test_the_rules_are_about_files_that_exist():
    assert set(CORE) <= set(FILES)
    assert ours("terms") == CORE["terms"]
    assert ours("data/corpus") >= {"data/batches", "data/masking"}


@pytest.mark.parametrize("name", FILES)
def test_imports_are_absolute(name):
    assert not {module for module in imported(FILES[name]) if module.startswith(".")}


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_only_what_lies_below_it(name):
    assert ours(name) <= CORE[name]


def test_losses_import_torch_only():
    assert {module.split(".")[0] for module in imported(FILES["losses"])} == {"torch"}


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("data/")])
def test_data_imports_nothing_of_ours_but_views_and_data(name):
    assert all(module in ("views", "keep") or module.startswith("data/") for module in ours(name))


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("student/")])
def test_students_know_views_and_never_that_they_are_taught(name):
    known = ("views", "layer_maps", "encoder", "pairing", "keep", "trim")
    assert all(module in known or module.startswith("student/") for module in ours(name))


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("method/")])
def test_methods_import_the_core_and_students_at_most(name):
    assert all(module in CORE or module.startswith(("method/", "student/")) for module in ours(name))


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("callback/")])
def test_callbacks_import_the_core_and_callbacks_at_most(name):
    assert all(module in CORE or module.startswith("callback/") for module in ours(name))


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("teacher/")])
def test_teachers_know_the_core_and_the_cache(name):
    assert all(module in CORE or module == "keep" or module.startswith("teacher/") for module in ours(name))


COMMANDS = ("run/", "report/", "demo_teacher/")


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(COMMANDS) and "/" in name])
def test_nothing_but_commands_and_run_imports_run(name):
    assert not {module for module in ours(name) if module.startswith("run/")}


@pytest.mark.parametrize("name", [name for name in FILES if re.fullmatch(r"(run/|report/)?(?!__init__)\w+", name)])
def test_only_yaml_imports_methods_students_and_callbacks(name):
    """Commands and run/ may read data and teachers."""
    assert not {module for module in ours(name) if module.startswith(("method/", "student/", "callback/"))}


def test_no_file_has_a_name_without_a_reason():
    names = {Path(name).name for name in FILES} | {part for name in FILES for part in Path(name).parts[:-1]}
    assert not names & {"utils", "util", "common", "helpers", "helper", "base", "types", "misc"}


@pytest.mark.parametrize("name", FILES)
def test_no_file_holds_two_ideas(name):
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= 250


@pytest.mark.parametrize("name", FILES)
def test_users_get_value_errors(name):
    """No assert and no blanket except in library code."""
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert), f"assert in line {node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert not re.search(r"\b(everything|Exception|BaseException)\b", caught), f"blanket except in line {node.lineno}"


def test_no_path_of_a_machine_is_written_down():
    sources = [*FILES.values(), ROOT / "train.py", ROOT / "pyproject.toml", *(ROOT / "conf").rglob("*.yaml")]
    absolute = re.compile(r"(?<![\w.$}<>~/:-])/(work|tmp|home|root|Users|mnt|data|opt)/")
    lines = [(path, line) for path in sources for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(path.name, line) for path, line in lines if absolute.search(line)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_takes_from_the_package_is_there(path):
    """They are not run here, and some want more than the tests have installed."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("kd_lightning"):
            module = importlib.import_module(node.module)
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not [
                name for name in missing if f"{node.module}.{name}".removeprefix("kd_lightning.").replace(".", "/") not in FILES
            ]


def test_every_bug_that_is_planted_is_found_exactly_once():
    """plant_bugs.py runs seldom; here its texts are kept up with the code."""
    assert len(plant_bugs.BUGS) > 50
    assert plant_bugs.misplaced() == []
