"""A tiny chain on the command line, in processes that can be stopped."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked import Started, nothing


@pytest.fixture(scope="module")
def material(tmp_path_factory, make_encoder) -> Path:
    """A folder with a teacher, a corpus and a task; the words of a class tell it."""
    folder = tmp_path_factory.mktemp("material")
    teacher = make_encoder(dropout=0.1, positions=128)
    teacher.tokenizer.model_max_length = 128
    teacher.model.save_pretrained(folder / "teacher")
    teacher.tokenizer.save_pretrained(folder / "teacher")
    chance = random.Random(0)
    lines = [" ".join(f"w{chance.randrange(5, 90)}" for _ in range(chance.randrange(4, 14))) for _ in range(180)]
    (folder / "corpus.txt").write_text("\n\n".join(lines) + "\n")
    (folder / "SST-2").mkdir()
    for split, size in (("train", 40), ("dev", 20)):
        rows = [f"w{chance.randrange(10, 40) + 40 * (n % 2)} w7 w8\t{n % 2}" for n in range(size)]
        (folder / "SST-2" / f"{split}.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")
    return folder


@pytest.fixture
def start(material, tmp_path) -> Iterator[Callable[..., Started]]:
    """Start `train.py`: a TinyBERT of 16 wide. Everything it leaves lies in the test's folder, as `a`, `c` and `r`."""
    begun: list[Started] = []

    def make(*words: str, environment: dict[str, str] | None = None, before: Callable[[], None] = nothing) -> Started:
        given = {
            "method": "tinybert",
            "stage": "general",
            "task": "sst2",
            "task.max_length": "16",
            "student.hidden_size": "16",
            "student.intermediate_size": "32",
            "trainer.accelerator": "cpu",
            "data.batch_size": "4",
            "teacher.pretrained": f"{material}/teacher",
            "corpus": f"[{material}/corpus.txt]",
            "glue": f"{material}",
            "artifacts": f"{tmp_path}/a",
            "cache": f"{tmp_path}/c",
            "hydra.run.dir": f"{tmp_path}/r",
            "hydra.sweep.dir": f"{tmp_path}/s",
        }
        said = [word.split("=")[0].lstrip("+~") for word in words]
        usual = [f"{name}={value}" for name, value in given.items() if name not in said]
        begun.append(Started(["train.py", *words, *usual], tmp_path / f"log{len(begun)}", environment or {}, before))
        return begun[-1]

    yield make
    for started in begun:
        started.process.kill()
        started.process.join()
