"""What `kill -9` at random moments loses: `python benchmarks/kill.py [--kills 12] [--processes 1] [--words method=... ...]`.

Runs a tiny chain undisturbed, and then again with the process killed at random moments, each time going on with
`ckpt_path=last`, until it is done. Prints how many of the files that matter (weights, metrics, predictions of every artifact)
are equal to the last bit, and what lies about in the end. processes: so many run the same chain at once, and are all killed.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHAIN = ["method=tinybert", "stage=task", "task=sst2", "student.hidden_size=16", "student.intermediate_size=32"]
FEW = ["trainer.max_epochs=2", "data.batch_size=8", "task.max_length=16", "trainer.accelerator=cpu", "checkpoint_minutes=0.001"]
KEPT = ("model.safetensors", "metrics.json", "predictions.parquet")


def material(folder: Path) -> list[str]:
    """A teacher, a corpus and a task; returns the words of the command line that name them."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(5, 97))]
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}, model_max_length=128)
    shape = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    BertForMaskedLM(BertConfig(vocab_size=len(words), max_position_embeddings=128, **shape)).save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    chance = random.Random(0)
    lines = [" ".join(f"w{chance.randrange(5, 90)}" for _ in range(chance.randrange(4, 14))) for _ in range(400)]
    (folder / "corpus.txt").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    (folder / "SST-2").mkdir()
    for split, size in (("train", 80), ("dev", 20)):
        rows = [f"w{chance.randrange(10, 40) + 40 * (n % 2)} w7 w8\t{n % 2}" for n in range(size)]
        (folder / "SST-2" / f"{split}.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return [f"teacher.pretrained={folder}/teacher", f"corpus=[{folder}/corpus.txt]", f"glue={folder}"]


def started(words: list[str], place: Path, number: int) -> subprocess.Popen:
    folders = [f"artifacts={place}/artifacts", f"cache={place}/cache", f"hydra.run.dir={place}/run{number}", "ckpt_path=last"]
    log = (place / f"log{number}").open("a", encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "train.py", *words, *folders],
        cwd=ROOT,
        stdout=log,
        stderr=log,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )


def files(place: Path) -> dict[str, bytes]:
    found = (file for file in sorted((place / "artifacts").rglob("*")) if file.name in KEPT)
    return {str(file.relative_to(place)): file.read_bytes() for file in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", nargs="*", default=[*CHAIN, *FEW], help="the chain, as on the command line")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        control, torn = Path(folder, "control"), Path(folder, "torn")
        words = [*given.words, *material(Path(folder))]
        for place in (control, torn):
            place.mkdir()
        begun = time.monotonic()
        if started(words, control, 0).wait():
            sys.exit((control / "log0").read_text(encoding="utf-8"))
        whole = time.monotonic() - begun
        print(f"undisturbed: {whole:.0f} s, {len(files(control))} files")
        kills = starts = 0
        while True:
            running = [started(words, torn, number) for number in range(given.processes)]
            starts += 1
            end = time.monotonic() + (chance.uniform(0, whole) if kills < given.kills else 60 + 10 * whole)
            while time.monotonic() < end and any(process.poll() is None for process in running):
                time.sleep(0.01)
            alive = [process for process in running if process.poll() is None]
            for process in alive:
                process.send_signal(signal.SIGKILL)
                process.wait()
            if kills >= given.kills:
                break
            kills += bool(alive)
            if not alive:  # done before it was killed: the whole chain once more, in the same folders
                for file in (torn / "artifacts").rglob("metrics.json"):
                    file.unlink()
        statuses = [process.returncode for process in running]
        ours, theirs = files(torn), files(control)
        equal = sum(ours.get(name) == content for name, content in theirs.items())
        left = [
            path for path in torn.rglob("*") if path.name.endswith((".lock", ".begun", ".ckpt")) or "unfinished" in path.name
        ]
        print(f"{kills} kills, {starts} starts, the last ended with {statuses}: {equal} of {len(theirs)} files equal,")
        print(f"{len(ours.keys() - theirs.keys())} others, {len(left)} left lying about: {[path.name for path in left]}")
        if statuses != [0] * given.processes or equal != len(theirs) or ours.keys() != theirs.keys() or left:
            for number in range(given.processes):
                print((torn / f"log{number}").read_text(encoding="utf-8")[-3000:])
            sys.exit(1)


if __name__ == "__main__":
    main()
