"""The checksums beside the weights."""

import hashlib
import json
import os

import pytest

from kd_lightning import manifest

CONTENT = {"model.safetensors": bytes(range(256)) * 50, "config.json": b"{}", "run.yaml": b"name: a\n", "metrics.json": b"{}"}


@pytest.fixture
def folder(tmp_path):
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "README.md").write_text("for people")
    manifest.write(tmp_path)
    return tmp_path


def test_it_holds_size_and_sha256_of_each_file_that_counts(folder):
    about = json.loads((folder / "manifest.json").read_text())["files"]
    expected = {name: {"bytes": len(c), "sha256": hashlib.new("sha256", c).hexdigest()} for name, c in CONTENT.items()}
    assert about == expected
    manifest.check(folder)


def test_what_people_read_and_other_files_may_change(folder):
    (folder / "README.md").write_text("better")
    (folder / "table.csv").write_text("a,b\n")
    manifest.check(folder)


@pytest.mark.parametrize("name", CONTENT)
def test_a_file_that_is_missing_cut_or_altered_is_named(name, folder):
    file = folder / name
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole + b"x", bytes([whole[0] ^ 1]) + whole[1:], b""):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"^{file} (has|is not what)"):
            manifest.check(folder)
    file.unlink()
    with pytest.raises(ValueError, match=f"^{file} is missing"):
        manifest.check(folder)


def test_a_folder_without_one_is_a_plain_model(folder):
    (folder / "manifest.json").unlink()
    (folder / "config.json").unlink()
    manifest.check(folder)


DAMAGED = ("", "{", "[]", '{"files": []}', '{"files": {"a": 1}}', '{"files": {"a": {"bytes": 1}}}', "[" * 99_999)


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_one_is_one_sentence(content, folder):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        manifest.check(folder)


@pytest.mark.parametrize("size", ["12800", None, [1]])
def test_a_size_that_is_no_number_is_one_sentence(size, folder):
    (folder / "manifest.json").write_text(json.dumps({"files": {"config.json": {"bytes": size, "sha256": "0"}}}))
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        manifest.check(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "..", "", "a\\b", "a\x1b[2J"])
def test_it_names_files_of_its_own_folder_only(name, folder):
    (folder.parent / "secret").write_text("x")
    (folder / "manifest.json").write_text(json.dumps({"files": {name: {"bytes": 1, "sha256": "0" * 64}}}))
    with pytest.raises(ValueError, match="no file of this folder") as said:
        manifest.check(folder)
    assert str(said.value).isprintable()


def test_a_pipe_in_place_of_a_file_is_not_waited_for(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        manifest.check(folder)
