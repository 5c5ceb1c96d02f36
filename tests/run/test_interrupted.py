"""Nothing is lost: killed processes, signals, full disks and damaged checkpoints, against runs that nothing happened to."""

import errno
import io
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

LAST = "a/*/*.run/checkpoints/last.ckpt"
EPOCH = 24  # batches
OFTEN = ("checkpoint_minutes=0", "trainer.max_epochs=2")  # a checkpoint after every batch


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Of every artifact below a folder, by the artifact's name."""
    return {file.parent.name: load_file(file) for file in sorted(folder.rglob("model.safetensors"))}


def equal(ours: Path, theirs: Path) -> bool:
    ours, theirs = weights(ours), weights(theirs)
    assert ours
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name][key], theirs[name][key]) for name in ours for key in theirs[name])


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.fixture(scope="module")
def control(tmp_path_factory, material) -> Path:
    """Where artifacts lie that nothing has happened to; made by the first test that asks."""
    return tmp_path_factory.mktemp("control")


@pytest.fixture
def undisturbed(control, start):
    """The same command with nothing happening to it."""

    def make(*words: str) -> Path:
        words = [word for word in words if not word.startswith("checkpoint_minutes")]  # which changes nothing
        place = control / "".join(c if c.isalnum() else "_" for c in "".join(words))
        if not place.exists():
            assert start(*words, f"artifacts={place}").wait().status == 0
        return place

    return make


def counted(folder: Path, name: str):
    """What makes a process write a letter for each batch that it trains on."""

    def before() -> None:
        from kd_lightning.distiller import Distiller

        step = Distiller.training_step

        def training_step(self, batch, index):
            with (folder / name).open("a") as file:
                file.write(".")
            return step(self, batch, index)

        Distiller.training_step = training_step

    return before


def batches(folder: Path, name: str) -> int:
    return len((folder / name).read_text())


# Signals


@pytest.mark.parametrize(
    ("number", "status", "stage"), [(signal.SIGTERM, 143, "intermediate"), (signal.SIGINT, 130, "general")]
)
def test_a_signal_leaves_a_checkpoint_a_sentence_and_its_status(start, undisturbed, tmp_path, number, status, stage):
    words = ("trainer.max_epochs=2", *([] if stage == "general" else [f"stage={stage}"]))
    stopped = start(*words, before=counted(tmp_path, "first")).until("first").send(number).wait()
    assert stopped.status == status
    goes_on = f"train.py: stopped by {signal.Signals(number).name}. This goes on where it stopped: python train.py "
    assert stopped.sentence.startswith(f"{goes_on}{words[0]} ")
    assert stopped.sentence.endswith(" ckpt_path=last")
    assert not list(tmp_path.rglob("model.safetensors"))
    assert len(list(tmp_path.rglob("*.run"))) == 1  # no later stage
    assert zipfile.ZipFile(next(tmp_path.rglob("last.ckpt"))).testzip() is None
    command = shlex.split(stopped.sentence.removeprefix(goes_on))
    assert start(*command, before=counted(tmp_path, "second")).wait().status == 0
    assert equal(tmp_path / "a", undisturbed(*words))
    if stage == "general":
        assert 0 < batches(tmp_path, "first") == 2 * EPOCH - batches(tmp_path, "second")


def test_what_comes_after_a_stopped_command_does_not_run(material, tmp_path):
    words = [f"corpus=[{material}/corpus.txt]", f"teacher.pretrained={material}/teacher", "trainer.max_epochs=1000"]
    words += [
        "method=tinybert",
        "stage=general",
        "trainer.accelerator=cpu",
        "data.batch_size=4",
        f"artifacts={tmp_path}/a",
        f"cache={tmp_path}/c",
    ]
    command = shlex.join([sys.executable, "train.py", *words, f"hydra.run.dir={tmp_path}/r"])
    shell = f"{command} & echo $! > {tmp_path}/id; wait $! && echo next; echo status $?"
    process = subprocess.Popen(["sh", "-c", shell], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if "Epoch 0" in line:
            os.kill(int((tmp_path / "id").read_text()), signal.SIGTERM)
            break
    said = process.communicate(timeout=60)[0].splitlines()
    assert said[-1] == "status 143"
    assert [line[:29] for line in said if line.startswith("train.py")] == ["train.py: stopped by SIGTERM."]
    assert "next" not in said


def test_a_signal_before_the_training_is_a_sentence_too(start, tmp_path):
    def slow() -> None:
        import time

        from kd_lightning.run import stage

        stage.rehearse = lambda runs: ((tmp_path / "there").touch(), time.sleep(60))

    stopped = start("stage=intermediate", before=slow).until("there").send(signal.SIGTERM).wait(10)
    assert stopped.status == 143
    assert "stopped by SIGTERM" in stopped.sentence


def test_a_signal_ends_the_whole_sweep(start, tmp_path):
    words = ("-m", "method.hidden=0.5,1", "trainer.max_epochs=2")
    stopped = start(*words, before=counted(tmp_path, "first")).until("first").send(signal.SIGTERM).wait()
    assert stopped.status == 143
    assert stopped.sentence.endswith(" ckpt_path=last")
    assert len(list(tmp_path.glob("a/demo/*.run"))) == 1
    assert not list(tmp_path.rglob("summary.csv"))


def test_workers_that_load_data_get_the_signal_too_and_a_checkpoint_is_left(start, tmp_path):
    count = counted(tmp_path, "first")

    def before() -> None:
        os.setpgid(0, 0)
        count()

    running = start("data.workers=1", "trainer.max_epochs=2", before=before).until("first")
    os.killpg(running.process.pid, signal.SIGTERM)
    assert running.wait().status == 143
    assert zipfile.ZipFile(one(tmp_path, LAST)).testzip() is None


# SLURM


@pytest.fixture
def slurm(tmp_path):
    """The environment of a job, with a scontrol that writes down what it is told."""
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "scontrol"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    tool.chmod(0o755)
    job = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "distil", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    return job | {"SLURM_NODEID": "0", "SLURM_NODELIST": "here", "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("left", "choice"), [("last.ckpt", []), ("hpc_ckpt_1.ckpt", []), ("hpc_ckpt_1.ckpt", ["ckpt_path=last"])]
)
def test_a_job_that_slurm_queued_again_goes_on_where_it_stopped(start, undisturbed, slurm, tmp_path, left, choice):
    words = ("trainer.max_epochs=2",)
    stopped = start(*words, environment=slurm, before=counted(tmp_path, "first")).until("first").send(signal.SIGUSR1).wait()
    assert stopped.status == 138
    assert stopped.sentence == "train.py: stopped by SIGUSR1. Job 17 is queued again and goes on where it stopped."
    assert (tmp_path / "told").read_text() == "requeue 17\n"
    if left.startswith("hpc"):  # as Lightning itself names it
        checkpoint = one(tmp_path, LAST)
        checkpoint.rename(checkpoint.parent.parent / left)
    again = slurm | {"SLURM_RESTART_COUNT": "1"}
    assert start(*words, *choice, environment=again, before=counted(tmp_path, "second")).wait().status == 0
    assert batches(tmp_path, "second") == 2 * EPOCH - batches(tmp_path, "first")
    assert equal(tmp_path / "a", undisturbed(*words))
    assert not list(tmp_path.rglob("*.ckpt"))


# Checkpoints


def failing(number: int):
    """What makes the disk full in the middle of the checkpoint of this number."""

    def before() -> None:
        save, calls = torch.save, iter(range(1, 1000))

        def half(value, file):
            whole = io.BytesIO()
            save(value, whole)
            if next(calls) < number:
                file.write(whole.getvalue())
            else:
                file.write(whole.getvalue()[: whole.tell() // 2])
                file.flush()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        torch.save = half

    return before


@pytest.mark.parametrize("number", [1, 5])
def test_a_disk_that_is_full_while_a_checkpoint_is_written_leaves_the_former_one(start, undisturbed, tmp_path, number):
    stopped = start(*OFTEN, before=failing(number)).wait()
    assert stopped.status == 1
    assert "checkpoints/next.ckpt cannot be written: the disk is full." in stopped.sentence
    assert not [file for file in tmp_path.rglob("*") if "unfinished" in file.name or file.name.endswith((".begun", ".lock"))]
    left = {file.name: torch.load(file, weights_only=True)["global_step"] for file in tmp_path.rglob("*.ckpt")}
    assert left == ({"last.ckpt": 4, "former.ckpt": 3} if number == 5 else {})
    assert start(*OFTEN, "ckpt_path=last", before=counted(tmp_path, "second")).wait().status == 0
    assert batches(tmp_path, "second") == 2 * EPOCH - (number - 1)
    assert equal(tmp_path / "a", undisturbed(*OFTEN))


def mount(folder: Path, *options: str) -> None:
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing may be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small(tmp_path):
    """A file system with room for some checkpoints."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount(folder, "-t", "tmpfs", "-o", "size=2m", "tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_file_system_that_really_is_full_leaves_the_former_checkpoint(start, undisturbed, small):
    running = start(*OFTEN, f"artifacts={small}/a").until("small/a/*/*.run/checkpoints/former.ckpt")
    with (small / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    stopped = running.wait()
    assert stopped.status == 1
    assert " cannot be written: the disk is full." in stopped.sentence
    whole = [file for file in small.rglob("*.ckpt") if zipfile.ZipFile(file).testzip() is None]
    assert whole == list(small.rglob("*.ckpt")) != []
    assert not list(small.rglob("*unfinished*"))
    (small / "filler").unlink()
    assert start(*OFTEN, f"artifacts={small}/a", "ckpt_path=last").wait().status == 0
    assert equal(small / "a", undisturbed(*OFTEN))


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def empty(content: bytes) -> bytes:
    return b""


def altered(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [truncated, empty, altered])
def test_a_damaged_checkpoint_is_said_and_the_one_before_it_is_taken(start, undisturbed, tmp_path, damage):
    start(*OFTEN).until("a/*/*.run/checkpoints/former.ckpt").send(signal.SIGTERM).wait()
    last = one(tmp_path, LAST)
    step = torch.load(last.with_name("former.ckpt"), weights_only=True)["global_step"]
    last.write_bytes(damage(last.read_bytes()))
    again = start(*OFTEN, "ckpt_path=last", before=counted(tmp_path, "second")).wait()
    assert again.status == 0
    assert f"{last} is damaged; this goes on from former.ckpt, which is older." in again.said
    assert batches(tmp_path, "second") == 2 * EPOCH - step
    assert equal(tmp_path / "a", undisturbed(*OFTEN))


def test_a_checkpoint_that_cannot_be_read_is_a_sentence_with_its_file(start, tmp_path):
    start(*OFTEN).until("a/*/*.run/checkpoints/former.ckpt").send(signal.SIGTERM).wait()
    last = one(tmp_path, LAST)
    for file in tmp_path.rglob("*.ckpt"):
        file.write_bytes(truncated(file.read_bytes()))
    for choice in ("last", last):
        refused = start(*OFTEN, f"ckpt_path='{choice}'").wait()
        assert refused.status == 1
        assert str(last) in refused.sentence
        assert "damaged" in refused.sentence
