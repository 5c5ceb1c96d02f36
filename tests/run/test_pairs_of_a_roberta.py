"""klue/roberta-*: a RoBERTa with a BERT's tokenizer and one segment, fine-tuned, distilled and asked on pairs, from files as
KLUE's and with its tokenizer elsewhere."""

import csv
import json
import random
from pathlib import Path

import pytest
import torch
from forked import Started
from transformers import AutoModelForSequenceClassification, AutoTokenizer, RobertaConfig, RobertaForMaskedLM

WORDS = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", *(f"{chr(0xAC00 + 28 * n)}나" for n in range(60))]  # KLUE's order


@pytest.fixture
def place(tmp_path) -> Path:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = RobertaConfig(vocab_size=len(WORDS), max_position_embeddings=34, type_vocab_size=1, **shape, **ids)
    RobertaForMaskedLM(config).save_pretrained(tmp_path / "roberta")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    about = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(about))
    chance = random.Random(0)
    rows = [
        {"pair": {"first": " ".join(chance.choices(WORDS[5:], k=4)), "second": WORDS[5 + n]}, "labels": {"label": n % 3}}
        for n in range(30)
    ]
    (tmp_path / "rows.txt").write_text(json.dumps(rows, ensure_ascii=False, indent=4), encoding="utf-8")
    return tmp_path


def test_it_is_fine_tuned_distilled_and_asked_on_pairs(place):
    words = ["method=tinybert", "stage=task", "start=teacher", "task=table", "task.format=json", "task.max_length=16"]
    words += [f"task.files.train={place}/rows.txt", "task.text=[pair.first,pair.second]", "task.label=labels.label"]
    words += [f"teacher.pretrained={place}/roberta", f"teacher.tokenizer={place}/tokenizer", "student.num_hidden_layers=1"]
    words += ["trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.precision=32-true", "logger=none"]
    words += [f"artifacts={place}/a", f"cache={place}/c", f"hydra.run.dir={place}/r"]
    done = Started(["train.py", *words], place / "log").wait(120)
    assert done.status == 0, done.stderr
    student = next(path.parent for path in (place / "a").rglob("metrics.json") if path.parent.name.startswith("tinybert,"))
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(student)("가나", "가나")
    asked = Started(
        ["-m", "kd_lightning.predict", str(student), f"{place}/rows.txt", "--format", "json", "--out", f"{place}/said.tsv"],
        place / "asked",
    ).wait(60)
    assert asked.status == 0, asked.stderr
    with (place / "said.tsv").open(encoding="utf-8") as file:
        answers = list(csv.DictReader(file, delimiter="\t"))
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(student).eval(),
        AutoTokenizer.from_pretrained(student),
    )
    rows = json.loads((place / "rows.txt").read_text(encoding="utf-8"))
    assert len(answers) == len(rows) == 30
    for row, answer in zip(rows, answers, strict=True):
        tokens = tokenizer(row["pair"]["first"], row["pair"]["second"], return_tensors="pt")
        assert [tokenizer.convert_ids_to_tokens(int(tokens["input_ids"][0, place])) for place in (0, -1)] == ["[CLS]", "[SEP]"]
        with torch.no_grad():
            shares = model(**tokens).logits[0].softmax(0)
        assert answer["label"] == model.config.id2label[int(shares.argmax())]
        assert float(answer["probability"]) == pytest.approx(float(shares.max()), abs=2e-5)
