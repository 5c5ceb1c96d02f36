"""Whatever is kept is whole or not there at all, whoever else wants it and whenever somebody dies.

Processes are real ones; they tell each other what they do by files.
"""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kd_lightning.keep import keep, lock, replace

ENV = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
SCRIPT = """
import os, sys, time
from pathlib import Path
from kd_lightning.keep import keep

place, log, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def make(scratch):
    scratch.mkdir()
    (scratch / "first").write_text("one")
    Path(f"{scratch}-reading").write_text("of no use later")
    with log.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(seconds)
    (scratch / "second").write_text("two")

print((keep(place, make) / "second").read_text())
"""


def start(place: Path, log: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(place), str(log), str(seconds)]
    return subprocess.Popen(command, text=True, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def until(condition, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it never happened"
        time.sleep(0.02)


def thing(text: str):
    """What makes a folder with a file of this text."""

    def make(scratch: Path) -> None:
        scratch.mkdir()
        (scratch / "file").write_text(text)

    return make


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refuse(*_) -> None:
    raise RuntimeError("made again")


def full(scratch: Path) -> None:
    scratch.mkdir()
    (scratch / "begun").write_text("begun")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_processes_that_want_the_same_thing_make_it_once_and_all_have_it(tmp_path):
    place, log = tmp_path / "cache" / "thing", tmp_path / "log"
    processes = [start(place, log, 1) for _ in range(3)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert [output.splitlines()[-1] for output, _ in outputs] == ["two"] * 3
    maker = log.read_text().splitlines()
    assert len(maker) == 1
    waited = [output for process, (output, _) in zip(processes, outputs, strict=True) if str(process.pid) != maker[0]]
    assert len(waited) == 2
    assert all(output.count(f"process {maker[0]} on {os.uname().nodename}") == 1 for output in waited)
    assert names(place.parent) == ["thing"]
    assert names(place) == ["first", "manifest.json", "second"]


def test_a_killed_process_leaves_its_lock_free_and_its_leftovers_to_the_next(tmp_path):
    place, log = tmp_path / "cache" / "thing", tmp_path / "log"
    killed = start(place, log, 600)
    until(lambda: log.exists() and log.read_text())
    waiting = start(place, log, 0)
    until(lambda: waiting.stdout.readline().count(f"process {killed.pid} on"))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    output, errors = waiting.communicate(timeout=60)
    assert (waiting.returncode, output) == (0, "two\n"), errors
    assert names(place.parent) == ["thing"]
    assert names(place) == ["first", "manifest.json", "second"]


def test_what_a_killed_process_left_is_removed_and_stands_in_nobodys_way(tmp_path):
    place, log = tmp_path / "cache" / "thing", tmp_path / "log"
    killed = start(place, log, 600)
    until(lambda: log.exists() and log.read_text())
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert names(place.parent) == ["thing.lock", "thing.unfinished", "thing.unfinished-reading"]
    (place.parent / "thing.unfinished.example").touch()  # another thing's
    keep(place, thing("whole"))
    assert (place / "file").read_text() == "whole"
    assert names(place.parent) == ["thing", "thing.unfinished.example"]


def test_a_child_that_outlives_its_parent_does_not_hold_the_parents_lock(tmp_path):
    """As a data loader's worker does when the run is killed."""
    place = tmp_path / "thing"
    script = f"""
import os, time
from pathlib import Path
from kd_lightning.keep import lock
with lock(Path({str(place)!r})):
    if os.fork() == 0:
        time.sleep(8)
        os._exit(0)
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script], timeout=60, env=ENV, stdout=subprocess.DEVNULL)
    begin = time.monotonic()
    with lock(place):
        assert time.monotonic() - begin < 4


def test_what_is_there_is_taken_as_it_is_and_no_lock_is_needed(tmp_path):
    keep(tmp_path / "thing", thing("here"))
    with lock(tmp_path / "thing"):
        assert keep(tmp_path / "thing", refuse) == tmp_path / "thing"
    script = f"from pathlib import Path\nfrom kd_lightning.keep import keep\nkeep(Path({str(tmp_path / 'thing')!r}), None)"
    with lock(tmp_path / "thing"):
        subprocess.run([sys.executable, "-c", script], timeout=60, env=ENV, check=True)


def test_whoever_holds_the_lock_may_keep_and_replace(tmp_path):
    place = tmp_path / "some" / "where" / "thing"
    with lock(place):
        keep(place, thing("first"))
        replace(place, thing("second"))
        assert names(place.parent) == ["thing", "thing.lock"]
    assert (place / "file").read_text() == "second"
    assert names(place.parent) == ["thing"]


@pytest.mark.parametrize("write", [keep, replace])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, ZeroDivisionError, OSError(errno.EIO, "the disk is broken")])
def test_what_could_not_be_finished_leaves_nothing_behind(write, failure, tmp_path):
    def make(scratch: Path) -> None:
        scratch.mkdir()
        Path(f"{scratch}-reading").mkdir()
        (Path(f"{scratch}-reading") / "text").touch()
        raise failure

    with pytest.raises(failure if isinstance(failure, type) else OSError):
        write(tmp_path / "cache" / "thing", make)
    assert names(tmp_path / "cache") == []


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "a bit": (lambda place: flip(place / "deep" / "file"), r"deep/file is not what manifest\.json says of it"),
    "half": (lambda place: (place / "deep" / "file").write_text("wh"), r"deep/file has 2 bytes in place of 5"),
    "missing": (lambda place: (place / "deep" / "file").unlink(), r"deep/file is missing"),
    "no manifest": (lambda place: (place / "manifest.json").unlink(), r"manifest\.json is missing"),
    "noise": (lambda place: (place / "manifest.json").write_text("[1]"), r"manifest\.json is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_kept_and_is_no_longer_what_it_was_is_told_in_a_sentence_and_made_again(damage, tmp_path, capsys):
    place, made = tmp_path / "thing", []

    def make(scratch: Path) -> None:
        (scratch / "deep").mkdir(parents=True)
        (scratch / "deep" / "file").write_text("whole")
        made.append(scratch)

    keep(place, make)
    keep(place, make)
    assert len(made) == 1
    assert not capsys.readouterr().out
    spoil, words = DAMAGES[damage]
    spoil(place)
    keep(place, make)
    assert (place / "deep" / "file").read_text() == "whole"
    assert len(made) == 2
    (said,) = capsys.readouterr().out.splitlines()
    assert re.match(rf"{re.escape(str(place))}/{words}.*It is made again\.$", said)
    keep(place, refuse)
    assert names(tmp_path) == ["thing"]


def test_a_replaced_thing_stays_as_it_was_until_the_new_one_is_whole(tmp_path):
    place, seen = tmp_path / "thing", []

    def folder(scratch: Path) -> None:
        scratch.mkdir()
        (scratch / f"file{len(seen)}").touch()
        seen.append(names(place) if place.exists() else None)

    for _ in range(2):
        replace(place, folder)
    assert seen == [None, ["file0"]]
    with pytest.raises(ValueError, match="the disk is full"):
        replace(place, full)
    assert names(place) == ["file1"]
    assert names(tmp_path) == ["thing"]


def test_a_file_never_takes_the_place_of_a_folder(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "precious").touch()
    with pytest.raises(ValueError, match=r"results cannot be written: a folder lies where a file should be.*choose another"):
        replace(tmp_path / "results", lambda scratch: scratch.touch())
    assert names(tmp_path) == ["results"]
    assert names(tmp_path / "results") == ["precious"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_said_in_a_sentence(wrapped, tmp_path):
    def make(scratch: Path) -> None:
        try:
            full(scratch)
        except OSError as error:
            if wrapped:  # as datasets does
                raise RuntimeError("An error occurred while generating the dataset") from error
            raise

    with pytest.raises(
        ValueError, match=r"cache/thing cannot be written: the disk is full. Change that or choose another folder .cache="
    ):
        keep(tmp_path / "cache" / "thing", make)
    assert names(tmp_path / "cache") == []


def test_a_disk_that_is_really_full_is_left_as_it_was(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        with pytest.raises(ValueError, match="the disk is full"):
            keep(tmp_path / "cache" / "thing", lambda scratch: scratch.write_bytes(bytes(100_000)))
        assert names(tmp_path / "cache") == []
        (tmp_path / "fill").write_bytes(bytes(65_536))  # so that not even the lock's file can be written into
        with pytest.raises(ValueError, match="the disk is full"):
            keep(tmp_path / "cache" / "thing", lambda scratch: scratch.write_bytes(bytes(100_000)))
        assert names(tmp_path / "cache") == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "cache").touch()
    for place in (tmp_path / "cache" / "thing", tmp_path / "cache" / "deeper" / "thing"):
        with pytest.raises(ValueError, match=r"thing cannot be written: a file lies where a folder should be"):
            keep(place, refuse)


def test_a_folder_that_can_only_be_read_gives_what_it_has_and_refuses_what_it_lacks(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        keep(tmp_path / "thing", thing("here"))
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        assert (keep(tmp_path / "thing", refuse) / "file").read_text() == "here"
        for place in (tmp_path / "other", tmp_path / "some" / "where"):
            with pytest.raises(ValueError, match="cannot be written: the folder can only be read"):
                keep(place, refuse)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_without_the_right_to_write_gives_what_it_has_and_refuses_what_it_lacks(tmp_path):
    keep(tmp_path / "thing", thing("here"))
    tmp_path.chmod(0o500)
    try:
        assert (keep(tmp_path / "thing", refuse) / "file").read_text() == "here"
        with pytest.raises(ValueError, match="other cannot be written: you have no right to write there"):
            keep(tmp_path / "other", refuse)
    finally:
        tmp_path.chmod(0o700)


def test_a_file_that_make_cannot_read_is_not_blamed_on_the_place(tmp_path):
    def make(scratch: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "secret"))

    with pytest.raises(PermissionError, match="secret"):
        keep(tmp_path / "cache" / "thing", make)
