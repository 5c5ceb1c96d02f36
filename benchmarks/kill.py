"""What `kill -9` at random moments loses: `python benchmarks/kill.py [method ...] [--kills 8] [--processes 1]`.

Runs a tiny chain of each method (by default all of them) undisturbed, and then again with the process killed at random
moments, each time going on with `ckpt_path=last`, until it is done. Prints for each how many of the files that matter
(weights, metrics, predictions, architectures of every artifact) are equal to the last bit, and what lies about in the end.
processes: so many run the same chain at once, and are all killed. The exit status is 1 where anything differs.
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
CHAINS = {  # method -> its settings, beside FEW
    "tinybert": ["student.hidden_size=16", "student.intermediate_size=32"],
    "distilbert": [],
    "mobilebert": [],
    "adabert": ["student.channels=8", "student.cells=2"],
    "bilstm": [],
    "cnn": [],
    "bow": [],
    "finetune": [],
}
FEW = ["stage=task", "task=sst2", "trainer.max_epochs=2", "data.batch_size=8", "task.max_length=16", "trainer.accelerator=cpu"]
FEW = [*FEW, "checkpoint_minutes=0.001"]
KEPT = ("model.safetensors", "metrics.json", "predictions.parquet", "architecture.json")


def material(folder: Path, positions: int = 128) -> list[str]:
    """A teacher of so many positions, a corpus and a task; returns the words of the command line that name them."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(5, 97))]
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}, model_max_length=positions)
    shape = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    shape |= {"vocab_size": len(words), "max_position_embeddings": positions}
    BertForMaskedLM(BertConfig(**shape)).save_pretrained(folder / "teacher")
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


def torn_apart(chain: list[str], kills: int, processes: int, chance: random.Random) -> tuple[str, bool]:
    """A line of the report, and whether all is as in the undisturbed run; if not, the end of the logs is printed."""
    with tempfile.TemporaryDirectory() as folder:
        control, torn = Path(folder, "control"), Path(folder, "torn")
        words = [*chain, *material(Path(folder))]
        for place in (control, torn):
            place.mkdir()
        begun = time.monotonic()
        if started(words, control, 0).wait():
            sys.exit((control / "log0").read_text(encoding="utf-8"))
        whole = time.monotonic() - begun
        done = starts = 0
        while True:
            running = [started(words, torn, number) for number in range(processes)]
            starts += 1
            end = time.monotonic() + (chance.uniform(0, whole) if done < kills else 60 + 10 * whole)
            while time.monotonic() < end and any(process.poll() is None for process in running):
                time.sleep(0.01)
            alive = [process for process in running if process.poll() is None]
            for process in alive:
                process.send_signal(signal.SIGKILL)
                process.wait()
            if done >= kills:
                break
            done += bool(alive)
            if not alive:  # done before it was killed: the whole chain once more, in the same folders
                for file in (torn / "artifacts").rglob("metrics.json"):
                    file.unlink()
        statuses = [process.returncode for process in running]
        ours, theirs = files(torn), files(control)
        equal = sum(ours.get(name) == content for name, content in theirs.items())
        left = [
            path.name
            for path in torn.rglob("*")
            if path.name.endswith((".lock", ".begun", ".ckpt")) or "unfinished" in path.name
        ]
        right = statuses == [0] * processes and equal == len(theirs) > 0 and ours.keys() == theirs.keys() and not left
        if not right:
            for number in range(processes):
                print((torn / f"log{number}").read_text(encoding="utf-8")[-3000:])
            print(f"exit statuses {statuses}, {len(ours.keys() - theirs.keys())} other files, left lying about: {left}")
        return f"{whole:.0f} s | {done} | {starts} | {equal} of {len(theirs)} | {len(left)}", right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", nargs="*", default=list(CHAINS), help=f"{', '.join(CHAINS)} (default: all)")
    parser.add_argument("--kills", type=int, default=8, help="of each method")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", nargs="*", default=[], help="further words of the command line")
    given = parser.parse_args()
    if unknown := [method for method in given.method if method not in CHAINS]:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(CHAINS)}.")
    chance, failed = random.Random(given.seed), []
    print("| method | undisturbed | kills | starts | files equal | left lying about |\n|---|---|---|---|---|---|", flush=True)
    for method in given.method:
        line, right = torn_apart(
            [f"method={method}", *CHAINS[method], *FEW, *given.words], given.kills, given.processes, chance
        )
        print(f"| {method} | {line} |", flush=True)
        failed += [] if right else [method]
    if failed:
        sys.exit(f"not as in the undisturbed run: {', '.join(failed)}")


if __name__ == "__main__":
    main()
