"""What a student of a teacher of many languages saves where its texts are of one language, and what that costs.

    python benchmarks/vocabulary.py --others <English texts> --own <Korean texts> --train train.tsv --held-out dev.tsv sts.tsv \
      --columns comments sentence1 --out <folder> [settings of train.py]

The teacher has the shape of an XLM-R, small and of random weights, and a Unigram vocabulary that is learnt from both
languages. Printed are what `student/vocabulary=used` keeps of it, by which texts are counted, and the share of held-out texts
that are cut as before. Where settings of train.py are given, `train.py method=distilbert start=teacher` then fine-tunes the
teacher on the task and distils two students of its layers, with all pieces and with those used. What is in the folder `--out`
already is not made again.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.normalizers import NFKC
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.trainers import UnigramTrainer
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaTokenizer
from transformers.utils.logging import disable_progress_bar

from kd_lightning.data.source import all_texts
from kd_lightning.encoder import Encoder, masked_lm
from kd_lightning.keep import keep
from kd_lightning.run.artifact import parameters
from kd_lightning.run.report import show
from kd_lightning.student.transplant import layers_of
from kd_lightning.student.vocabulary import used

ROOT = Path(__file__).resolve().parents[1]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
SHAPE = {"num_hidden_layers": 4, "hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512}
LAYERS = 2  # of the student


def teacher(folder: Path, texts: Iterator[str], pieces: int) -> None:
    learner = Tokenizer(Unigram())
    learner.normalizer, learner.pre_tokenizer = NFKC(), Metaspace()
    learner.train_from_iterator(texts, UnigramTrainer(vocab_size=pieces, special_tokens=SPECIAL, unk_token="<unk>"))
    scored = [tuple(entry) for entry in json.loads(learner.to_str())["model"]["vocab"]]
    tokenizer = XLMRobertaTokenizer(vocab=[*scored, ("<mask>", 0.0)], model_max_length=128)
    torch.manual_seed(0)
    config = XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=130, type_vocab_size=1, **SHAPE)
    XLMRobertaForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def columns(file: Path, names: list[str]) -> list[str]:
    """The texts in those of these columns that a TSV file has; files are never quoted."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row[name] for row in rows for name in names if row.get(name)]


def line(name: str, student: Encoder, whole: Encoder, held_out: dict[str, list[str]]) -> dict[str, str]:
    count = parameters(student.model)
    table = student.model.get_input_embeddings().weight.numel()

    def same(texts: list[str]) -> float:
        ours, theirs = (
            [reads.tokenizer.convert_ids_to_tokens(ids) for ids in reads.tokenizer(texts)["input_ids"]]
            for reads in (student, whole)
        )
        return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(texts)

    shares = {f"{file} cut alike": f"{same(texts):.1%}" for file, texts in held_out.items()}
    return {
        "student": name,
        "pieces": f"{len(student.tokenizer):,}",
        "parameters": f"{count / 1e6:.2f}M",
        "table": f"{table / count:.0%}",
        "MB": f"{4 * count / 1e6:.1f}",
        **shares,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="setting", help="of train.py; without one nothing is trained")
    parser.add_argument("--others", type=Path, nargs="+", required=True, help="corpus files of other languages")
    parser.add_argument("--own", type=Path, nargs="+", required=True, help="corpus files of the student's language")
    parser.add_argument("--train", type=Path, required=True, help="the task's training rows, a TSV file")
    parser.add_argument("--held-out", type=Path, nargs="+", required=True, help="TSV files of other texts; the first validates")
    parser.add_argument("--columns", nargs="+", required=True, help="of text; the first is the task's")
    parser.add_argument("--pieces", type=int, default=30000)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_intermixed_args()
    disable_progress_bar()
    chosen.out.mkdir(parents=True, exist_ok=True)
    files = [str(file) for file in (*chosen.others, *chosen.own)]
    texts = partial(all_texts, cache=str(chosen.out / "cache"))
    folder = keep(chosen.out / "teacher", lambda scratch: teacher(scratch, texts(files), chosen.pieces))
    whole = masked_lm(folder)
    task = columns(chosen.train, chosen.columns)
    own = [str(file) for file in chosen.own]
    counted = {"task": lambda: iter(task), "corpus and task": lambda: iter([*texts(own), *task])}
    held_out = {f"{file.parent.name}/{file.stem}": columns(file, chosen.columns) for file in chosen.held_out}
    student = partial(layers_of, whole, num_hidden_layers=LAYERS, copy_layers="uniform")
    rows = [line("all pieces", student(), whole, held_out)]
    for name, counts in counted.items():
        for characters, told in ((True, "all characters"), (False, "their characters")):
            vocabulary = partial(used, reader=None, corpus=counts, characters=characters)
            rows.append(line(f"used in {name}, {told}", student(vocabulary=vocabulary), whole, held_out))
    width = SHAPE["hidden_size"]
    show(rows, f"A student of {LAYERS} layers, width {width}, a masked LM in float32; table: the share of its embeddings")
    if chosen.settings:
        command = [sys.executable, "train.py", "method=distilbert", "stage=task", "start=teacher", "task=table"]
        command += [f"task.files.train={chosen.train}", f"task.files.validation={chosen.held_out[0]}"]
        command += [f"task.text=[{chosen.columns[0]}]", f"corpus=[{','.join(own)}]", f"teacher.pretrained={folder}"]
        command += [
            f"artifacts={chosen.out / 'artifacts'}",
            f"cache={chosen.out / 'cache'}",
            f"student.num_hidden_layers={LAYERS}",
        ]
        same = [word for word in chosen.settings if word.startswith("stages.")]  # a comparison has its own unless it is told
        cut = f"overrides: {json.dumps(['student/vocabulary=used', f'student.num_hidden_layers={LAYERS}', *same])}"
        command += [f"compare=[{{method: distilbert, stage: task, {cut}}}]", *chosen.settings]
        subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
