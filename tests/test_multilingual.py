"""Teachers of many languages, with tokenizers of their own kind: XLM-R, mBERT, mDeBERTa-v2 and KoELECTRA, tiny and random."""

import csv
import json
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from forked import Started
from languages import KOREAN, deberta, sentences, unigram, wordpiece
from test_families import measure
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, AutoTokenizer, ElectraForPreTraining

from kd_lightning.encoder import classifier, masked_lm
from kd_lightning.method.distilbert import DistilBERT, DistilBERTTask
from kd_lightning.method.low_resource import LogitDistillation
from kd_lightning.method.mobilebert import MobileBERTTask
from kd_lightning.method.tinybert import PredictionDistillation, TransformerDistillation
from kd_lightning.predict import Classifier
from kd_lightning.student.transplant import layers_of, smaller

SHAPE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
DEBERTA = {  # as mdeberta-v3-base says of itself
    "relative_attention": True,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
SHAPES = {  # name -> its tokenizer, its class, what its configuration has of its own, and whether it shows its attention
    "XLM-R": (unigram, "XLMRoberta", {"type_vocab_size": 1, "max_position_embeddings": 70}, True),
    "mBERT": (wordpiece, "Bert", {}, True),
    "mDeBERTa-v2": (deberta, "DebertaV2", DEBERTA, False),
    "KoELECTRA": (wordpiece, "Electra", {"embedding_size": 16}, True),
}
TEXTS = sentences(KOREAN, 8, 11)
LABELS = ("no", "yes", "maybe")


@pytest.fixture(scope="module", params=SHAPES)
def shape(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def place(shape, tmp_path_factory) -> Path:
    """The folder that such a model would be downloaded as, and a corpus and a task beside it."""
    make, kind, more, _ = SHAPES[shape]
    tokenizer, folder = make(), tmp_path_factory.mktemp(kind)
    fields = {"vocab_size": len(tokenizer) + 5, "max_position_embeddings": 64, "pad_token_id": tokenizer.pad_token_id}
    config = getattr(transformers, f"{kind}Config")(**fields | SHAPE | more)
    torch.manual_seed(0)
    # KoELECTRA is published as its discriminator, which has no head of a masked LM
    made = ElectraForPreTraining(config) if kind == "Electra" else transformers.AutoModelForMaskedLM.from_config(config)
    made.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    (folder / "corpus.txt").write_text("\n".join(sentences(KOREAN, 60, 12)), encoding="utf-8")
    for split, count in (("train", 24), ("dev", 12)):
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = [[text, LABELS[number % 3]] for number, text in enumerate(sentences(KOREAN, count, count))]
            csv.writer(file).writerows([["review", "mood"], *rows])
    return folder


def test_it_shows_what_plain_transformers_computes(shape, place):
    """Each text alone; KoELECTRA's masked LM needs a head that was saved."""
    model = masked_lm(place / "teacher")
    model.model.save_pretrained(place / "whole")
    model.tokenizer.save_pretrained(place / "whole")
    attention, copied = SHAPES[shape][3], shape in ("XLM-R", "mBERT")
    assert measure(place / "whole", shape, TEXTS) == [True, attention, True, True, True, copied]
    assert model.spec.trained_head == (shape != "KoELECTRA")


def grown(term: torch.Tensor, student: torch.nn.Module) -> float:
    """The gradient's size."""
    student.zero_grad()
    term.backward()
    return sum(float(p.grad.abs().sum()) for p in student.parameters() if p.grad is not None)


def test_every_method_whose_terms_apply_teaches_a_student(shape, place, engine):
    """A gradient that is finite and not zero; and what does not apply is refused by its name."""
    attention = SHAPES[shape][3]
    teacher, judge = masked_lm(place / "teacher"), classifier(place / "teacher", LABELS)
    narrow = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 16}
    thin = smaller(teacher, path=None, copy_layers=None, **narrow)
    half = smaller(teacher, path=None, copy_layers="uniform", num_hidden_layers=2)
    own = layers_of(judge, num_hidden_layers=2, copy_layers=None)
    judge.spec = judge.spec.__class__(**judge.spec.__dict__ | {"trained_head": True})
    tokens = dict(teacher.tokenizer(TEXTS, padding=True, return_tensors="pt"))
    rows = torch.tensor([1, 2, tokens["input_ids"].shape[1] + 1])
    corpus = tokens | {"rows": rows, "labels": tokens["input_ids"].flatten()[rows]}
    task = tokens | {"labels": torch.arange(len(TEXTS)) % 3}
    scored = {"soft": 5.0 if teacher.spec.trained_head else 0.0}
    usual = {"embedding": 1.0, "hidden": 1.0, "layers": "uniform", "projection": "shared", "valid_only": True}
    tinybert = partial(TransformerDistillation, **usual)
    made = [
        (DistilBERT(temperature=2.0, **scored, mlm=2.0, cosine=1.0, masked_only=False, **engine(half, teacher)), corpus),
        (tinybert(attention=float(attention), **engine(thin, teacher)), corpus),
        (tinybert(attention=float(attention), **engine(own, judge)), task),
        (PredictionDistillation(prediction=1.0, gold=0.5, temperature=2.0, **engine(own, judge)), task),
        (DistilBERTTask(temperature=2.0, soft=0.5, gold=0.5, **engine(own, judge)), task),
        (LogitDistillation(mse=1.0, kl=1.0, soft=1.0, gold=1.0, temperature=2.0, **engine(own, judge)), task),
        (
            MobileBERTTask(
                gold=1.0,
                soft=1.0,
                temperature=2.0,
                feature=1.0,
                attention=float(attention),
                layers="uniform",
                **engine(own, judge),
            ),
            task,
        ),
    ]
    for distiller, batch in made:
        loss, _ = distiller.objective(*distiller.views(batch), batch)
        size = grown(loss, distiller.student)
        assert 0 < size < float("inf"), type(distiller).__name__
    if not attention:
        with pytest.raises(ValueError, match="cannot show queries and keys"):
            tinybert(attention=1.0, **engine(thin, teacher))
    if not teacher.spec.trained_head:
        with pytest.raises(ValueError, match="loaded without a trained head"):
            DistilBERT(temperature=2.0, soft=5.0, mlm=2.0, cosine=1.0, masked_only=False, **engine(half, teacher))


CHAINS = {  # what is typed for each; between them every way in which a student starts, and a method of each kind
    "XLM-R": ["method=distilbert", "start=corpus", "student/vocabulary=used"],
    "mBERT": ["method=tinybert", "start=teacher", "student/vocabulary=used", "student.num_hidden_layers=2"],
    "mDeBERTa-v2": ["method=tinybert", "start=corpus", "method.attention=0", "student/vocabulary=used"],
    "KoELECTRA": ["method=bilstm", "student/vocabulary=used", "student/embeddings=teacher", "student.embeddings.size=8"],
}


def test_it_is_fine_tuned_distilled_and_asked(shape, place):
    """Against plain transformers on the folder that is left; texts of kept pieces are cut as the teacher cuts them."""
    files = [f"task.files.train={place}/train.csv", f"task.files.validation={place}/dev.csv", f"corpus=[{place}/corpus.txt]"]
    rows = ["task=table", *files, "task.text=[review]", "task.label=mood", "task.max_length=24", "data.max_length=24"]
    quick = ["trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.precision=32-true"]
    folders = [f"artifacts={place}/artifacts", f"cache={place}/cache", f"hydra.run.dir={place}/run"]
    done = Started(
        ["train.py", *CHAINS[shape], *rows, *quick, *folders, f"teacher.pretrained={place}/teacher"], place / "log"
    ).wait(120)
    assert done.status == 0, done.stderr
    method = CHAINS[shape][0].removeprefix("method=")
    (folder,) = (path.parent for path in place.rglob("metrics.json") if path.parent.name.split(",")[0] == method)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own, whole = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(place / "teacher")
    assert settings["vocab_size"] == len(own) < len(whole)
    student = Classifier(folder)
    texts = [(text,) for text in TEXTS]
    answers, asked = student(texts), student.logits(texts)
    for text, answer, logits in zip(TEXTS, answers, asked, strict=True):
        assert own.tokenize(text) == whole.tokenize(text)
        tokens = own(text, truncation=True, max_length=24, return_tensors="pt")
        with torch.no_grad():
            expected = AutoModelForSequenceClassification.from_pretrained(folder).eval()(**tokens).logits[0]
        assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        assert answer["label"] == sorted(LABELS)[int(expected.argmax())]
