"""A stranger's artifact runs nothing and tells nothing; a damaged one is said to be so. Each payload is shown to work where
it is handed to what would run it: that is the control."""

import csv
import functools
import json
import pickle
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pyarrow import parquet
from transformers import AutoConfig

from kd_lightning import compare, manifest, predict, submission, word_order

SECRET = "hunter2-hunter2"
FILES = ("run.yaml", "config.json", "tokenizer.json", "model.safetensors", "metrics.json", "predictions.parquet")
READ = {  # command -> what it cannot do without
    "predict": ("run.yaml", "config.json", "tokenizer.json", "model.safetensors"),
    "submission": ("run.yaml", "config.json", "tokenizer.json", "model.safetensors"),
    "word_order": ("run.yaml", "config.json", "tokenizer.json", "model.safetensors"),
    "compare": ("run.yaml", "config.json", "model.safetensors", "metrics.json", "predictions.parquet"),
}


@pytest.fixture
def artifact(tmp_path, make_encoder, write_record):
    """What a task stage leaves, without a manifest, which a stranger can write as well."""
    folder = tmp_path / "artifact"
    encoder = make_encoder(labels=("negative", "positive"), layers=1)
    encoder.model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    write_record(folder, task={"labels": ["negative", "positive"]})
    (folder / "metrics.json").write_text('{"val/student/accuracy": 0.5}')
    rows = pa.table({"row": range(4), "label": [0, 1, 1, 0], "student": [[0.0, 1.0]] * 4})
    parquet.write_table(rows, folder / "predictions.parquet")
    return folder


@pytest.fixture
def run(artifact, tmp_path, monkeypatch, capfd):
    """A command on the artifact: what it says, and its sentence if it refuses. Any other exception is its traceback."""
    (tmp_path / "glue" / "SST-2").mkdir(parents=True)
    for split in ("train", "dev"):
        (tmp_path / "glue" / "SST-2" / f"{split}.tsv").write_text("sentence\tlabel\n" + "w7 w8\t0\nw9\t1\n" * 3)
    (tmp_path / "glue" / "SST-2" / "test.tsv").write_text("index\tsentence\n0\tw7 w8\n1\tw9\n")
    (tmp_path / "text.txt").write_text("w7 w8\nw9\n")
    arguments = {
        "predict": [artifact, tmp_path / "text.txt"],
        "submission": [artifact, "--glue", tmp_path / "glue", "--out", tmp_path / "out.zip"],
        "word_order": [artifact, "--set", f"glue={tmp_path / 'glue'}"],
        "compare": [artifact, "--csv", tmp_path / "out.csv", "--markdown", tmp_path / "out.md"],
    }
    commands = {"predict": predict, "submission": submission, "word_order": word_order, "compare": compare}

    def call(name: str) -> tuple[str, str | None]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments[name])])
        refused = None
        try:
            commands[name].main()
        except SystemExit as left:
            refused = str(left.code)
        said = capfd.readouterr()
        written = [path.read_text() for path in (tmp_path / "out.csv", tmp_path / "out.md") if path.is_file()]
        return "".join([said.out, said.err, *written]), refused

    return call


@pytest.mark.parametrize("name", READ)
def test_every_command_does_its_work_on_a_whole_artifact(name, run, artifact):
    """Without which the refusals below would say nothing."""
    for _ in range(2):
        said, refused = run(name)
        assert refused is None
        assert said
        manifest.write(artifact)


class Opens:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


def payloads(canary: Path, folder: Path) -> dict[str, dict]:
    """Settings that make the canary where they are instantiated."""
    folder.mkdir(exist_ok=True)
    with (folder / "evil.pt").open("wb") as file:
        pickle.dump(Opens(canary), file)
    return {
        "open": {"_target_": "builtins.open", "file": str(canary), "mode": "w"},
        "torch.load": {
            "_target_": "torch.load",
            "f": str(folder / "evil.pt"),
            "weights_only": False,
            "pickle_module": {"_target_": "hydra.utils.get_object", "path": "pickle"},
        },
        "sympify": {"_target_": "sympy.sympify", "a": f"__import__('pathlib').Path({str(canary)!r}).touch()"},
        "sqlite": {"_target_": "sqlite3.connect", "database": str(canary)},
    }


KINDS = ("open", "torch.load", "sympify", "sqlite")


def detonate(payload: dict) -> None:
    """As commands did with the settings of an artifact."""
    try:
        made = instantiate(OmegaConf.create(payload))
    except Exception:
        return  # of torch and of sympy, after it has been run
    if hasattr(made, "close"):
        made.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_the_payloads_work_where_they_are_instantiated(kind, tmp_path):
    canary = tmp_path / "canary"
    detonate(payloads(canary, tmp_path / "payload")[kind])
    assert canary.exists()


@pytest.mark.parametrize("place", ["settings", "fields", "earlier"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_command_runs_what_run_yaml_says(kind, place, run, artifact, tmp_path):
    canary = tmp_path / "canary"
    payload = payloads(canary, tmp_path / "payload")[kind]
    content = yaml.safe_load((artifact / "run.yaml").read_text())
    task = content["task"] | {
        "metrics": {"accuracy": payload},
        "reader": payload,
        "root": payload,
        "submission": {"SST-2": payload},
    }
    settings = {"task": task, "data": {"reader": payload}, "networks": {"teacher": payload}, "distiller": payload}
    if place == "settings":
        content["settings"] = settings
    elif place == "fields":
        content |= settings | {"task": task}
        del content["distiller"]
    else:  # the whole configuration, as earlier versions left it
        content |= settings | {"method": {"name": "tinybert"}, "stage": {"name": "task"}, "scale": {"name": "demo"}}
    (artifact / "run.yaml").write_text(yaml.safe_dump(content))
    refused = {name: run(name)[1] for name in READ}
    assert not canary.exists()
    assert not list(tmp_path.glob("**/*canary*"))
    if place == "earlier":
        assert all("made by an earlier version" in said for said in refused.values())
    else:
        assert set(refused.values()) == {None}  # it says nothing that is read


def test_no_command_fills_in_what_an_artifact_asks_for(run, artifact, write_record, monkeypatch):
    monkeypatch.setenv("TOKEN", SECRET)
    asks = "${oc.env:TOKEN}"
    write_record(artifact, name=asks, command=asks, teacher=asks, starts_from={"teacher": asks}, settings={"a": asks})
    assert OmegaConf.load(artifact / "run.yaml").name == SECRET  # the control
    for name in READ:
        said, refused = run(name)
        assert SECRET not in said + str(refused)
    assert asks in run("compare")[0]
    write_record(artifact, task={"name": asks, "text": [asks], "labels": ["negative", asks], "monitor": asks}, metric=asks)
    for name in READ:
        said, refused = run(name)
        assert SECRET not in said + str(refused)


def test_no_command_makes_objects_of_yaml(run, artifact, tmp_path):
    canary = tmp_path / "canary"
    text = f"made: !!python/object/apply:builtins.open [{canary}, w]\n" + (artifact / "run.yaml").read_text()
    yaml.unsafe_load(text)["made"].close()
    assert canary.exists()  # the control
    canary.unlink()
    (artifact / "run.yaml").write_text(text)
    for name in READ:
        assert "run.yaml cannot be read as plain YAML" in run(name)[1]
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["bert", "unheard_of"])
def test_no_command_runs_code_that_lies_beside_a_model(kind, run, artifact, tmp_path, monkeypatch):
    """A type that transformers knows is made of its own code; of another there is none. Nobody is asked."""
    canary = tmp_path / "canary"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question at the terminal"))
    code = f"open({str(canary)!r}, 'w').close()\nfrom transformers import BertConfig\n\n\nclass Evil(BertConfig):\n    pass\n"
    (artifact / "evil.py").write_text(code)
    settings = json.loads((artifact / "config.json").read_text())
    settings |= {"model_type": kind, "auto_map": {"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (artifact / "config.json").write_text(json.dumps(settings))
    AutoConfig.from_pretrained(artifact, trust_remote_code=True)
    assert canary.exists()  # the control
    canary.unlink()
    for name in READ:
        refused = run(name)[1]
        assert refused is None if kind == "bert" else "config.json cannot be loaded" in refused
    assert not canary.exists()


def test_no_command_unpickles_weights(run, artifact, tmp_path):
    canary = tmp_path / "canary"
    (artifact / "model.safetensors").unlink()
    with (artifact / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Opens(canary), file)
    with (artifact / "pytorch_model.bin").open("rb") as file:
        pickle.load(file).close()
    assert canary.exists()  # the control
    canary.unlink()
    for name in READ:
        assert "model.safetensors is missing" in run(name)[1]
    assert not canary.exists()


def test_a_model_that_names_code_of_the_hub_is_refused(run, artifact):
    settings = json.loads((artifact / "config.json").read_text()) | {"_attn_implementation": "someone/kernel"}
    (artifact / "config.json").write_text(json.dumps(settings))
    for name in READ:
        assert "config.json chooses code to run" in run(name)[1]


ESCAPE = "\x1b]0;title\x07\x1b[2J"


def test_no_name_from_an_artifact_commands_the_terminal(run, artifact, write_record):
    settings = json.loads((artifact / "config.json").read_text())
    names = [f"negative{ESCAPE}", f"positive{ESCAPE}"]
    settings |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    (artifact / "config.json").write_text(json.dumps(settings))
    said = {name: run(name) for name in READ}
    assert "\\x1b]0;title" in said["predict"][0]
    for field in ("name", "method", "stage", "scale", "metric", "teacher", "command", "identity"):
        write_record(artifact, **{field: f"a{ESCAPE}"})
        said |= {f"{name} {field}": run(name) for name in READ}
        assert all("run.yaml" in said[f"{name} {field}"][1] for name in READ)
    for field, value in {"name": f"a{ESCAPE}", "monitor": f"a{ESCAPE}", "labels": names, "text": [names[0]]}.items():
        write_record(artifact, task={field: value})
        said |= {f"{name} task.{field}": run(name) for name in READ}
        assert all(f"task.{field}" in said[f"{name} task.{field}"][1] for name in READ)
    write_record(artifact)
    for file in ("metrics.json", "manifest.json"):
        (artifact / file).write_text(json.dumps({f"val{ESCAPE}": 1, "files": {ESCAPE: {"bytes": 1, "sha256": ""}}}))
        said |= {f"{name} {file}": run(name) for name in READ}
    assert len(said) == 4 * (1 + 8 + 4 + 2)
    for case, (shown, refused) in said.items():
        assert not set("\x1b\x07") & set(shown + str(refused)), case
    assert "\x1b" in ESCAPE  # the control


def test_no_name_from_an_artifact_is_a_formula_or_a_column(run, artifact, write_record, tmp_path):
    write_record(artifact, name='=HYPERLINK("evil"),a|b', scale="@SUM(A1)")
    assert run("compare")[1] is None
    (majority, row) = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert (row["model"], row["scale"]) == ('\'=HYPERLINK("evil"),a|b', "'@SUM(A1)")
    assert (row["value"], majority["value"]) == ("0.5000", "0.5000")
    assert {line.replace("\\|", "").count("|") for line in (tmp_path / "out.md").read_text().splitlines()} == {len(row) + 1}


@pytest.mark.parametrize("name", ["../../../x", "/etc/x", "a\\b"])
def test_no_name_from_an_artifact_is_a_path(name, run, artifact, write_record, tmp_path):
    write_record(artifact, task={"name": name})
    assert "task.name" in run("submission")[1]
    assert not (tmp_path / "out.zip").exists()


def test_the_members_of_a_submission_are_the_leaderboards(run, artifact, write_record, tmp_path, monkeypatch):
    """Whatever a task's own YAML says."""
    conf = tmp_path / "conf"
    (conf / "task").mkdir(parents=True)
    own = Path(__file__).parents[1] / "conf"
    (conf / "train.yaml").write_text("glue: null\ncache: cache\n")
    (conf / "reader").mkdir()
    (conf / "reader" / "glue.yaml").write_text((own / "reader" / "glue.yaml").read_text())
    text = (own / "task" / "sst2.yaml").read_text().replace("{SST-2: test}", "{../../../x: test}")
    assert "../../../x" in text
    (conf / "task" / "sst2.yaml").write_text(text)
    for module in ("task", "mistake"):
        monkeypatch.setattr(f"kd_lightning.run.{module}.CONF", conf)
    assert "submission names ../../../x; the leaderboard takes CoLA, SST-2" in run("submission")[1]
    assert not (tmp_path / "out.zip").exists()


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def bits(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-len(content) // 3] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "missing": Path.unlink,
    "half": half,
    "empty": lambda file: file.write_bytes(b""),
    "noise": lambda file: file.write_bytes(bytes(range(256)) * 8),
    "other JSON": lambda file: file.write_text("[1, 2]"),
    "no fields": lambda file: file.write_text("{}"),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a bit": bits,
}


def test_the_damages_are_damages(tmp_path):
    for name, damage in DAMAGES.items():
        file = tmp_path / name
        file.write_bytes(b"0123456789")
        damage(file)
        assert not file.is_file() or file.read_bytes() != b"0123456789"


def one_sentence(refused: str | None, command: str, file: str) -> bool:
    return refused is not None and refused.startswith(f"{command}: ") and file in refused and refused.isprintable()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", READ)
def test_a_file_that_is_not_as_it_was_written_is_named(name, file, damage, run, artifact, tmp_path):
    manifest.write(artifact)
    DAMAGES[damage](artifact / file)
    assert one_sentence(run(name)[1], name, file)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage != "a bit"])
@pytest.mark.parametrize(("name", "file"), [(name, file) for name, files in READ.items() for file in files])
def test_so_it_is_without_checksums(name, file, damage, run, artifact, tmp_path):
    if (file, damage) in {("predictions.parquet", "missing"), ("predictions.parquet", "a folder")}:
        pytest.skip("a stage without them has none")
    DAMAGES[damage](artifact / file)
    refused = run(name)[1]
    if (file, damage) == ("run.yaml", "missing") or (file, damage) == ("run.yaml", "a folder"):
        file = "no artifact is there"
    assert one_sentence(refused, name, file)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("name", READ)
def test_a_damaged_manifest_is_named(name, run, artifact):
    for damage in ("half", "empty", "noise", "other JSON", "no fields"):
        manifest.write(artifact)
        DAMAGES[damage](artifact / "manifest.json")
        assert one_sentence(run(name)[1], name, "manifest.json")


@pytest.mark.parametrize(
    "rows",
    [
        {"row": [0, 1], "label": [0, 1], "student": [[0.0, 1.0], [0.0, float("nan")]]},
        {"row": [0, 1], "label": [0, 2], "student": [[0.0, 1.0], [0.0, 1.0]]},
        {"row": [0, 1], "label": [0, -1], "student": [[0.0, 1.0], [0.0, 1.0]]},
        {"row": [0, 1], "label": [0.5, 1.0], "student": [[0.0, 1.0], [0.0, 1.0]]},
        {"row": [0, 1], "label": [0, 1], "student": [[0.0, 1.0], [0.0]]},
        {"row": [0, 1], "label": [0, 1], "student": [0.0, 1.0]},
        {"row": [0, 1], "label": ["a", "b"], "student": [[0.0, 1.0], [0.0, 1.0]]},
        {"row": [0, 1], "label": [0, None], "student": [[0.0, 1.0], [0.0, 1.0]]},
        {"row": [0, 1], "label": pa.array([0, 2**63], pa.uint64()), "student": [[0.0, 1.0], [0.0, 1.0]]},
        {"row": [0.5, 1], "label": [0, 1], "student": [[0.0, 1.0], [0.0, 1.0]]},
        {"row": [0, 1], "student": [[0.0, 1.0], [0.0, 1.0]]},
        {"row": pa.array([], pa.int64()), "label": pa.array([], pa.int64()), "student": pa.array([], pa.list_(pa.float32()))},
    ],
)
def test_predictions_of_another_form_are_one_sentence(rows, run, artifact):
    parquet.write_table(pa.table(rows), artifact / "predictions.parquet")
    assert one_sentence(run("compare")[1], "compare", "predictions.parquet")


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": "wide"},
        {"hidden_size": 31},
        {"architectures": ["ForSequenceClassification"], "model_type": 7},
        {"vocab_size": -5},
    ],
)
def test_settings_of_another_form_are_one_sentence(change, run, artifact):
    settings = json.loads((artifact / "config.json").read_text()) | change
    (artifact / "config.json").write_text(json.dumps(settings))
    for name in READ:
        assert one_sentence(run(name)[1], name, "config.json")


@pytest.mark.parametrize(
    ("names", "refuse"), [(("positive", "negative"), ["submission"]), (("no", "yes"), ["submission", "word_order"])]
)
def test_a_model_of_other_classes_than_its_tasks_is_refused(names, refuse, run, artifact):
    """In another order the leaderboard's words would be wrong."""
    settings = json.loads((artifact / "config.json").read_text()) | {"id2label": dict(enumerate(names))}
    (artifact / "config.json").write_text(json.dumps(settings))
    said = {name: run(name)[1] for name in ("submission", "word_order")}
    assert [name for name, refused in said.items() if refused is not None] == refuse
    assert all("classes" in said[name] for name in refuse)


def test_the_hub_is_not_asked_for_what_a_folder_lacks(run, artifact, monkeypatch):
    """Nor anything else in the network."""
    monkeypatch.setattr("socket.socket.connect", functools.partial(pytest.fail, "a connection"))
    for name in READ:
        assert run(name)[1] is None


@pytest.mark.parametrize("name", ["predict", "submission", "word_order"])
def test_json_that_is_no_tokenizer_is_named(name, run, artifact):
    (artifact / "tokenizer.json").write_text('{"added_tokens": [], "model": {"type": "Nothing"}}')
    assert one_sentence(run(name)[1], name, "tokenizer.json holds no tokenizer")
