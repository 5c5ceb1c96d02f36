"""What an artifact says of itself: read as data, every field checked."""

import math
import time
from dataclasses import fields

import pytest
import yaml

from kd_lightning.run.record import MOST, Record, Task, read, read_metrics

TASK = {"name": "mrpc", "monitor": "f1", "labels": ["no", "ja: 'ok'"], "text": ["#1 String", "#2 String"], "max_length": 128}
FIELDS = {
    "name": "tinybert,attention=0",
    "identity": "0123456789abcdef",
    "setting": "1234567890123456",
    "method": "tinybert",
    "stage": "prediction",
    "scale": "demo",
    "seed": 42,
    "metric": "val/student/f1",
    "teacher": None,
    "starts_from": {"teacher": "artifacts/demo/teacher", "student": "google/bert"},
    "command": "python train.py 'task.text=[a, b]'",
}
ESCAPES = ("a\x1b[2J", "a\x07", "a\nb", "a\u202eb", "a\u2028b", "\x9b31m")
NO_NAME = ("", " ", "..", "a/b", "..\\a", *ESCAPES)
NO_TEXT = (7, None, True, ["a"], {"a": "b"}, 1.5)
WRONG = {  # field -> what it cannot be
    **dict.fromkeys(("name", "method", "stage", "scale"), (*NO_NAME, *NO_TEXT)),
    **dict.fromkeys(
        ("identity", "setting"), ("", "0123", "0123456789abcdeg", "0123456789ABCDEF", 1234567890123456, None, ["a"])
    ),
    "seed": ("42", 4.2, -1, True, None, [1], 2**64),
    "metric": (*ESCAPES, *NO_TEXT),
    "command": (*ESCAPES, *NO_TEXT),
    "teacher": (*ESCAPES, 7, True, ["a"], {"a": "b"}),
    "starts_from": ("teacher", None, ["teacher"], {"teacher": 7}, {7: "a"}, {"../a": "a"}, {"a": "\x1b[2J"}),
    "task": ("sst2", 7, ["a"], {}),
    "task.name": (*NO_NAME, *NO_TEXT),
    "task.monitor": (*NO_NAME, *NO_TEXT),
    "task.labels": ("a", None, [], [1, 2], ["a", None], ["a", "\x1b]0;x\x07"], {"_target_": "builtins.open"}),
    "task.text": ("a", None, [], ["a", "b", "c"], [1], ["a\x1b"]),
    "task.max_length": ("128", 0, -1, 12.5, True, None),
}


def written(folder, **changes) -> str:
    """run.yaml with these fields changed, those of the task as task.name; None as a change of a field is null."""
    content = FIELDS | {"task": dict(TASK)}
    for field, value in changes.items():
        (content["task"] if field.startswith("task.") else content)[field.removeprefix("task.")] = value
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(folder / "run.yaml")


def test_what_a_stage_has_written_is_read_back(tmp_path):
    record = Record(**FIELDS, task=Task(**TASK))
    shared = ["a", "b"]
    record.write(tmp_path, {"one": shared, "two": shared, "cache": "${oc.env:HOME}"})
    assert read(tmp_path) == record
    plain = yaml.safe_load((tmp_path / "run.yaml").read_text())
    assert plain == FIELDS | {"task": TASK, "settings": {"one": shared, "two": shared, "cache": "${oc.env:HOME}"}}
    assert "&" not in (tmp_path / "run.yaml").read_text()


def test_a_stage_on_a_corpus_has_no_task(tmp_path):
    Record(**FIELDS, task=None).write(tmp_path, {})
    assert read(tmp_path).task is None


def test_every_field_has_its_mistakes_here():
    known = {field.name for field in fields(Record)} | {f"task.{field.name}" for field in fields(Task)}
    assert known == WRONG.keys()
    assert all(WRONG.values())


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in WRONG.items() for value in values])
def test_a_wrong_field_is_one_sentence_with_the_file_and_the_field(field, value, tmp_path):
    file = written(tmp_path, **{field: value})
    with pytest.raises(ValueError, match=field) as said:
        read(tmp_path)
    assert str(said.value).startswith(f"{file}: {field}")
    assert str(said.value).isprintable()
    assert len(str(said.value)) < len(file) + 250


@pytest.mark.parametrize("field", [field for field in WRONG if field != "task"])
def test_a_missing_field_is_named(field, tmp_path):
    file = written(tmp_path)
    content = yaml.safe_load((tmp_path / "run.yaml").read_text())
    del (content["task"] if field.startswith("task.") else content)[field.removeprefix("task.")]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=f"{file}: {field} is missing"):
        read(tmp_path)


def test_a_record_that_could_not_be_read_back_is_not_made():
    with pytest.raises(ValueError, match=r"task.labels is 'a\\nb'"):
        Record(**FIELDS, task=Task(**TASK | {"labels": ["a\nb", "c"]}))


MERGES = "a0: &a0 {x: y}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 30)}]}}\n" for n in range(1, 30))
ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 99))


def test_what_stands_twice_may_be_written_once(tmp_path):
    """As PyYAML does; a list within itself too."""
    labels = ["a", "b"]
    recursive = [labels]
    recursive.append(recursive)
    content = FIELDS | {"task": TASK | {"labels": labels}, "settings": {"labels": labels, "recursive": recursive}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    assert "*id001" in (tmp_path / "run.yaml").read_text()
    assert read(tmp_path).task.labels == labels


def test_a_value_without_an_end_is_one_sentence(tmp_path):
    written(tmp_path, command="x" * 200_000)
    with pytest.raises(ValueError, match=r"command has more than 100,000 characters"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (MERGES, "more than 100 aliases"),
        (ALIASES, "more than 100 aliases"),
        ("name: &a b\n<<: {method: *a}\n", "merges"),
        ("[" * 100_000, "plain YAML"),
        ("name: " + "x" * MOST, "more than 4,000,000 bytes"),
        ("name: !!python/object/apply:builtins.open [canary, w]\n", "python/object/apply"),
        ("name: !anything else\n", "anything"),
        ("a: b: c", "plain YAML"),
        ("a: \x1b[2J", "plain YAML"),
        ("", "no fields"),
        ("- a\n", "no fields"),
        (b"\xff\xfe\x00", "plain YAML"),
        ("method: {name: tinybert}\nstage: {name: task}\n", "made by an earlier version .* Run the stage again"),
    ],
)
def test_what_is_no_record_is_refused_at_once(content, words, tmp_path):
    (tmp_path / "run.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.perf_counter()
    with pytest.raises(ValueError, match=words) as said:
        read(tmp_path)
    assert time.perf_counter() - start < 5
    assert str(said.value).startswith(str(tmp_path / "run.yaml"))
    assert str(said.value).isprintable()


def test_metrics_are_names_with_a_number(tmp_path):
    (tmp_path / "metrics.json").write_text('{"val/student/accuracy": 0.5, "rows": 7, "val/student/pearson": NaN, "x": -1e-3}')
    found = read_metrics(tmp_path)
    assert math.isnan(found.pop("val/student/pearson"))
    assert found == {"val/student/accuracy": 0.5, "rows": 7.0, "x": -0.001}
    assert all(isinstance(value, float) for value in found.values())


@pytest.mark.parametrize(
    "content",
    [
        *('{"a": Infinity}', '{"a": -Infinity}', '{"a": 1e999}', '{"a": true}', '{"a": "0.5"}', '{"a": null}', '{"a": [1]}'),
        *('{"a": {"b": 1}}', "[1]", "0.5", '{"a": 0.5', "", '{"a\\u001b[2J": 1}', "[" * 100_000),
        *('{"a": 1' + "0" * 400 + "}", '{"a": 1' + "0" * 5000 + "}"),
    ],
)
def test_other_metrics_are_one_sentence_with_the_file(content, tmp_path):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.json") as said:
        read_metrics(tmp_path)
    assert str(said.value).startswith(str(tmp_path / "metrics.json"))
    assert str(said.value).isprintable()


def test_missing_metrics_are_said_to_be_missing(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.json is missing"):
        read_metrics(tmp_path)


def test_the_form_is_that_of_every_stage(tmp_path):
    """The names of the fields, in order: other programs read them too."""
    Record(**FIELDS, task=Task(**TASK)).write(tmp_path, {})
    lines = [line for line in (tmp_path / "run.yaml").read_text().splitlines() if not line.startswith((" ", "-"))]
    names = "name, identity, setting, method, stage, scale, seed, metric, task, teacher, starts_from, command, settings"
    assert ", ".join(line.partition(":")[0] for line in lines) == names
