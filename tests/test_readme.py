"""What the README says can be typed is typed: each command runs, at a tiny length, with the defaults that it shows."""

import random
import re
import shlex
import warnings
from functools import partial
from pathlib import Path

import pytest
from forked import Started
from lightning import Trainer
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
DEMO = BLOCKS[0].rpartition("&& .venv/bin/")[2].strip()
LINES = [line.partition("  #")[0].strip() for block in BLOCKS[2:] for line in block.splitlines()]
TRAIN = list(dict.fromkeys([DEMO, *(line for line in LINES if line.startswith("python train.py "))]))
AFTER = [line for line in LINES if line.startswith("python -m ")]
*_, SCRIPT = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
NEEDED = {"kd_lightning.export": "onnxruntime", "kd_lightning.report": "matplotlib"}  # what is in an extra
TINY = ["trainer.max_steps=4", "trainer.accelerator=cpu", "+trainer.limit_val_batches=2", "+trainer.limit_test_batches=2"]
LITTLE = ["data.max_sequences=128", "data.held_out=0.01"]  # of the corpus
FEW = ["data.unlabelled=false"]  # rows


def test_every_line_of_a_block_is_a_command_that_runs_here():
    assert set(TRAIN) | set(AFTER) == {DEMO, *LINES}
    assert len(TRAIN) > 10 < 2 * len(AFTER)


def test_the_ci_script_runs_the_readmes_test_command():
    assert BLOCKS[1].strip() in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_tokenizer):
    """What a user has at hand: a table, the GLUE files, a text, and a teacher where the hub's is meant."""
    folder = tmp_path_factory.mktemp("readme")
    chance = random.Random(0)
    words = [[f"w{chance.randrange(5, 90)}" for _ in range(14)] for _ in range(60)]
    (folder / "mine.csv").write_text("review,stars\n" + "".join(f"{' '.join(row)},{n % 2}\n" for n, row in enumerate(words)))
    (folder / "text.txt").write_text("A tensor is an array.\nA graph has nodes.\n")
    (folder / "corpus.txt").write_text("\n\n".join(" ".join(row) for row in words))
    for task, header, row in (
        ("SST-2", "sentence\tlabel", "{0}\t{1}"),
        ("RTE", "index\tsentence1\tsentence2\tlabel", "{1}\t{0}\t{0}\t{2}"),
    ):
        (folder / task).mkdir()
        for split in ("train", "dev"):
            rows = [
                row.format(" ".join(text[:5]), n % 2, ("not_entailment", "entailment")[n % 2]) for n, text in enumerate(words)
            ]
            (folder / task / f"{split}.tsv").write_text("\n".join([header, *rows]) + "\n")
    shape = {"num_hidden_layers": 4, "hidden_size": 48, "num_attention_heads": 12, "intermediate_size": 96}
    BertForMaskedLM(BertConfig(vocab_size=97, max_position_embeddings=512, **shape)).save_pretrained(folder / "bert")
    make_tokenizer(max_length=512).save_pretrained(folder / "bert")
    config = BertConfig(vocab_size=97, max_position_embeddings=512, id2label={0: "0", 1: "1"}, **shape)
    BertForSequenceClassification(config).save_pretrained(folder / "my-classifier")
    make_tokenizer(max_length=512).save_pretrained(folder / "my-classifier")
    return folder


def typed(place: Path, words: list[str]) -> Started:
    return Started(words, place / "log", {"COLUMNS": "200"}, folder=place).wait(600)


@pytest.mark.parametrize("command", TRAIN)
def test_every_train_command_of_the_readme_runs(command, place):
    words = shlex.split(command)
    assert words[:2] == ["python", "train.py"]
    words = [word.replace("google-bert/bert-base-uncased", str(place / "bert")) for word in words[2:]]
    if any(word.startswith("task=") and "table" not in word for word in words):
        words.append(f"glue={place}")
    if "scale=base" in words:
        words.append(f"corpus=[{place}/corpus.txt]")
    corpus = "method=bilstm" not in words and "experiment=which_student" not in words
    little = [*FEW, *LITTLE] if corpus else FEW
    done = typed(place, ["train.py", *words, *TINY, *little])
    assert done.status == 0, done.stderr[-2000:] + done.stdout[-2000:]
    assert "Traceback" not in done.stderr
    assert ("4. tinybert prediction" if "dry_run=true" in words else "┃ model") in done.stdout


@pytest.mark.parametrize("command", AFTER)
def test_every_other_command_of_the_readme_runs(command, place):
    words = shlex.split(command)[1:]
    if words[1] in NEEDED:
        pytest.importorskip(NEEDED[words[1]])
    made = min(path.parent for path in place.glob("artifacts/demo/docs_topic/tinybert,*/predictions.parquet"))
    words = [word.replace("artifacts/demo/docs_topic/tinybert", str(made)) for word in words]
    words += ["--tolerance", "1"] if words[1] == "kd_lightning.export" else []  # of a student that has learned nothing
    done = typed(place, words)
    assert done.status == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert len(done.stdout) > 10


def test_the_script_without_hydra_trains_a_student_that_plain_transformers_loads(place, monkeypatch):
    monkeypatch.chdir(place)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    monkeypatch.setattr("lightning.Trainer", partial(Trainer, max_steps=2, accelerator="cpu", **quiet))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, of a loader without workers and a teacher in eval mode
        exec(compile(SCRIPT, "README.md", "exec"), {})
    student = BertForSequenceClassification.from_pretrained(place / "student")
    assert (student.config.num_hidden_layers, student.config.id2label) == (2, {0: "0", 1: "1"})
    assert len(SCRIPT.splitlines()) <= 30


def test_the_names_in_the_readme_exist():
    for group in ("method", "task", "scale"):
        row = re.search(rf"\| `{group}` \| (.*) \|", README)[1]
        names = re.findall(r"`(\w+)`", row)
        assert names
        for name in names:
            assert (ROOT / "conf" / group / f"{name}.yaml").is_file(), f"{group}={name}"
    experiments = re.search(r"\*\*Set-ups by name\*\*: (.*?\.)\n", README, re.DOTALL)[1]
    named = re.findall(r"`(?:experiment=)?(\w+)`", experiments)
    there = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")} - {"none"}
    assert set(named) == there
    for link in re.findall(r"\]\((conf/[^)]*)\)", README):
        assert (ROOT / link).exists(), link
