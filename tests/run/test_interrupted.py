"""Nothing is lost: killed processes, signals, full disks and damaged checkpoints, against runs that nothing happened to."""

import errno
import io
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kd_lightning import distiller, manifest
from kd_lightning.run import checkpoint, leftover, rehearsal, stage

LAST = "a/*/*.run/checkpoints/last.ckpt"
EPOCH = 16  # batches
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
            assert start(*words, f"artifacts={place}", f"cache={control}/cache").wait().status == 0
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


@pytest.mark.parametrize(("number", "status", "last"), [(signal.SIGTERM, 143, "general"), (signal.SIGINT, 130, "intermediate")])
def test_a_signal_leaves_a_checkpoint_a_sentence_and_its_status(start, undisturbed, tmp_path, number, status, last):
    words = ("trainer.max_epochs=1", f"stage={last}")
    if last == "general":  # where the end of the batch is not the end of the update
        words = ("trainer.max_epochs=2", "trainer.accumulate_grad_batches=4")
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
    if last == "general":
        assert 0 < batches(tmp_path, "first") == 2 * EPOCH - batches(tmp_path, "second")
        assert batches(tmp_path, "first") % 4 == 0


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
        if line.startswith("0/"):
            os.kill(int((tmp_path / "id").read_text()), signal.SIGTERM)
            break
    said = process.communicate(timeout=60)[0].splitlines()
    assert said[-1] == "status 143"
    assert [line[:29] for line in said if line.startswith("train.py")] == ["train.py: stopped by SIGTERM."]
    assert "next" not in said


def test_a_signal_before_the_training_is_a_sentence_too(start, tmp_path):
    def slow() -> None:
        rehearsal.rehearse = lambda runs: ((tmp_path / "there").touch(), time.sleep(60))

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


@pytest.mark.parametrize("left", ["last.ckpt", "hpc_ckpt_1.ckpt"])
def test_a_job_that_slurm_queued_again_goes_on_where_it_stopped(start, undisturbed, slurm, tmp_path, left):
    words = ("trainer.max_epochs=2",)
    stopped = start(*words, environment=slurm, before=counted(tmp_path, "first")).until("first").send(signal.SIGUSR1).wait()
    assert stopped.status == 138
    assert stopped.sentence == "train.py: stopped by SIGUSR1. Job 17 is queued again and goes on where it stopped."
    assert (tmp_path / "told").read_text() == "requeue 17\n"
    if left.startswith("hpc"):  # as Lightning itself names it
        checkpoint = one(tmp_path, LAST)
        checkpoint.rename(checkpoint.parent.parent / left)
    again = slurm | {"SLURM_RESTART_COUNT": "1"}
    assert start(*words, environment=again, before=counted(tmp_path, "second")).wait().status == 0
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


def test_a_disk_that_is_full_while_a_checkpoint_is_written_leaves_the_former_one(start, undisturbed, tmp_path):
    stopped = start(*OFTEN, before=failing(5)).wait()
    assert stopped.status == 1
    assert "checkpoints/next.ckpt cannot be written: the disk is full." in stopped.sentence
    assert not [file for file in tmp_path.rglob("*") if "unfinished" in file.name or file.name.endswith((".begun", ".lock"))]
    left = {file.name: torch.load(file, weights_only=True)["global_step"] for file in tmp_path.rglob("*.ckpt")}
    assert left == {"last.ckpt": 4, "former.ckpt": 3}
    assert start(*OFTEN, "ckpt_path=last", before=counted(tmp_path, "second")).wait().status == 0
    assert batches(tmp_path, "second") == 2 * EPOCH - 4
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
    subprocess.run(["dd", "if=/dev/zero", f"of={small}/filler"], capture_output=True)  # to the last byte
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
def test_a_damaged_checkpoint_is_told_from_a_whole_one(tmp_path, damage):
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"weight": torch.arange(10_000.0)}}, file)
    assert checkpoint.whole(file)
    file.write_bytes(damage(file.read_bytes()))
    assert not checkpoint.whole(file)


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_is_taken(start, undisturbed, tmp_path):
    start(*OFTEN).until("a/*/*.run/checkpoints/former.ckpt").send(signal.SIGTERM).wait()
    last = one(tmp_path, LAST)
    step = torch.load(last.with_name("former.ckpt"), weights_only=True)["global_step"]
    last.write_bytes(altered(last.read_bytes()))
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


def test_no_checkpoint_is_made_between_two_halves_of_an_update_or_before_a_validation(start, tmp_path):
    """Lightning keeps no gradients, and a run that goes on from before a validation leaves it out."""

    def before() -> None:
        def told(owner, name: str, letter: str) -> None:
            function = getattr(owner, name)

            def tell(*arguments, **named):
                with (tmp_path / "told").open("a") as file:
                    file.write(letter)
                return function(*arguments, **named)

            setattr(owner, name, tell)

        told(distiller.Distiller, "training_step", ".")
        told(distiller.Distiller, "validation_step", "V")
        told(checkpoint.Last, "_save", "S")

    assert start(*OFTEN, "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=8", before=before).wait().status == 0
    events = (tmp_path / "told").read_text().lstrip("V").rstrip("V")  # of the epochs, without what surrounds them
    assert events == 4 * "..S..S..S..VVS"  # two epochs of 16 batches, in each two validations of 2


def test_a_checkpoint_of_another_run_is_a_sentence(start, tmp_path):
    start(*OFTEN).until(LAST).send(signal.SIGTERM).wait()
    refused = start(*OFTEN, "student.hidden_size=8", f"ckpt_path='{one(tmp_path, LAST)}'").wait()
    assert refused.status == 1
    assert "another network or stage than this one" in refused.sentence


# Random states


@pytest.fixture
def together(start):
    """Two processes that train together, told so as torchrun tells them; returns how both ended. stop: the file that shows
    when the second one gets the signal."""

    def make(*words: str, before=lambda: None, stop=None, number=signal.SIGTERM) -> list:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        launch = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": port, "WORLD_SIZE": "2"}
        launch |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
        options = ("trainer.devices=2", "+trainer.strategy=ddp", *words)
        running = [
            start(*options, environment=launch | {"RANK": rank, "LOCAL_RANK": rank}, before=before) for rank in ("0", "1")
        ]
        if stop is not None:
            running[1].until(stop).send(number)
        for process in running:
            process.wait()
        return running

    return make


def test_two_processes_with_dropout_go_on_as_if_nothing_had_happened(together, tmp_path):
    """A signal that reaches one of them stops both at the same batch; where one is lost, the other says so and ends."""
    assert [process.status for process in together(*OFTEN, f"artifacts={tmp_path}/b")] == [0, 0]
    assert [process.status for process in together(*OFTEN, before=counted(tmp_path, "first"), stop="first")] == [143, 143]
    (random,) = (torch.load(file, weights_only=True)["random"]["cpu"] for file in tmp_path.glob(LAST))
    assert len(random) == 2
    assert not torch.equal(random[0], random[1])
    again = (*OFTEN, "ckpt_path=last")
    left, lost = together(*again, before=counted(tmp_path, "lost"), stop="lost", number=signal.SIGKILL)
    assert (left.status, lost.status) == (1, 137)
    assert "another process of this run has ended" in left.sentence
    assert "goes on where it stopped: torchrun --nproc-per-node=2 train.py trainer.devices=2 " in left.sentence
    assert not list(tmp_path.glob("a/*/*/model.safetensors"))
    assert [process.status for process in together(*again, before=counted(tmp_path, "second"))] == [0, 0]
    assert 0 < batches(tmp_path, "second") <= 2 * EPOCH - batches(tmp_path, "first")
    assert equal(tmp_path / "a", tmp_path / "b")


# Leftovers


def hanging(module, name: str, place: Path, **wanted):
    """What makes a process hang in a function of a module, once it has said so with a file; of functions of a folder, where it
    is an artifact's."""

    def before() -> None:
        function = getattr(module, name)

        def hang(*arguments, **named):
            elsewhere = isinstance(arguments[0], Path) and not arguments[0].is_relative_to(place / "a")
            if named == wanted and not elsewhere:
                (place / "hangs").touch()
                time.sleep(60)
            return function(*arguments, **named)

        setattr(module, name, hang)

    return before


@pytest.mark.parametrize(
    ("module", "name", "wanted", "left"),
    [
        (manifest, "write", {}, "a/demo/*.unfinished"),  # while it writes the artifact
        (stage, "tidy", {"done": True}, "a/demo/*.begun"),  # when it has written it
        (rehearsal, "export", {}, "a/demo/*/unfinished-*"),  # while it tries out the chain
    ],
)
def test_the_next_run_removes_what_a_killed_one_has_left(start, tmp_path, module, name, wanted, left):
    words = ("trainer.max_epochs=1", *(["stage=intermediate"] if left.endswith("-*") else []))
    running = start(*words, before=hanging(module, name, tmp_path, **wanted)).until("hangs")
    running.send(signal.SIGKILL).wait()
    assert list(tmp_path.glob(left))
    assert start(*words, "ckpt_path=last").wait().status == 0
    names = [path.name for path in (tmp_path / "a").rglob("*")]
    assert "metrics.json" in names
    assert not [name for name in names if name.endswith((".begun", ".lock", ".ckpt")) or "unfinished" in name]


def test_the_folder_of_a_process_that_still_runs_stays(tmp_path):
    host = socket.gethostname()
    kept = [tmp_path / f"unfinished-{host}-{os.getppid()}", tmp_path / "unfinished-elsewhere-1"]
    for folder in kept:
        folder.mkdir()
    with leftover.scratch(tmp_path) as mine:
        assert mine.is_dir()
    assert sorted(tmp_path.iterdir()) == sorted(kept)


# Where nothing can be written


@pytest.mark.parametrize("folder", ["artifacts", "cache", "hydra.run.dir"])
@pytest.mark.parametrize("below", ["", "/below"])
def test_a_file_where_a_folder_should_be_is_a_sentence(start, tmp_path, folder, below):
    (tmp_path / "file").write_text("")
    refused = start(f"{folder}={tmp_path}/file{below}").wait()
    assert refused.status == 1
    assert f"{tmp_path}/file" in refused.sentence
    assert re.search("a file lies where a folder should be|is a file, and a folder is wanted", refused.sentence)
    assert not list(tmp_path.rglob("*.unfinished"))
    assert not list(tmp_path.rglob("model.safetensors"))


@pytest.fixture
def read_only(tmp_path):
    """Makes a folder one that can only be read, for root too."""
    mounted = []

    def make(folder: Path) -> Path:
        mount(folder, "--bind", str(folder))
        mounted.append(folder)
        mount(folder, "-o", "remount,bind,ro")
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_read_only_cache_that_holds_everything_is_enough(start, undisturbed, control, read_only, tmp_path):
    words = ("trainer.max_epochs=1", "stage=intermediate")
    expected = undisturbed(*words)
    read_only(control / "cache")
    assert start(*words, f"cache={control}/cache").wait().status == 0
    assert equal(tmp_path / "a", expected)


def test_artifacts_that_can_only_be_read_are_a_sentence(start, read_only, tmp_path):
    (tmp_path / "a").mkdir()
    read_only(tmp_path / "a")
    refused = start("trainer.max_epochs=2").wait()
    assert refused.status == 1
    assert "cannot be written: the folder can only be read" in refused.sentence


def test_a_read_only_working_directory_is_no_hindrance_or_a_sentence(start, read_only, tmp_path):
    (tmp_path / "here").mkdir()
    here = read_only(tmp_path / "here")
    assert start("trainer.max_epochs=1", before=lambda: os.chdir(here)).wait().status == 0
    for folder in ("artifacts", "hydra.run.dir"):
        refused = start("trainer.max_epochs=2", f"{folder}=x", before=lambda: os.chdir(here)).wait()
        assert refused.status == 1
        assert "cannot be written: the folder can only be read" in refused.sentence
