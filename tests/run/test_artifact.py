"""What a task stage keeps of its validation data."""

import hashlib
import json
import weakref
from functools import partial
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, DebertaV2Config, DebertaV2ForMaskedLM

from kd_lightning.data.batches import loader, validation_batches
from kd_lightning.encoder import label_settings
from kd_lightning.method.distilbert import DistilBERTTask
from kd_lightning.method.finetune import MaskedLM
from kd_lightning.run import artifact
from kd_lightning.run.artifact import in_row_order, latency, megaflops, predict, save
from kd_lightning.run.timing import Time
from kd_lightning.student.bilstm import BiLSTMConfig, BiLSTMForSequenceClassification
from kd_lightning.student.cnn import CNNConfig, CNNForSequenceClassification

LABELS = ("no", "yes", "maybe")


@pytest.fixture
def trainer(tmp_path):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return L.Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **quiet)


def validation(texts: list[str], labels: list[int], tokenizer) -> SimpleNamespace:
    """Batches of three by length: in another order than the rows."""
    lengths = np.array([len(ids) for ids in tokenizer(texts)["input_ids"]])

    def collate(rows, _):
        batch = tokenizer([texts[row] for row in rows], padding=True, return_tensors="pt")
        return {**batch, "labels": torch.tensor([labels[row] for row in rows])}

    batches = partial(validation_batches, lengths, collate, batch_size=3, seed=0)
    return SimpleNamespace(val_dataloader=lambda: loader(batches(), 0, None))


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_logits_of_student_and_teacher_are_kept_row_by_row(make_encoder, engine, trainer):
    student, teacher = make_encoder(labels=LABELS, layers=2), make_encoder(labels=LABELS, seed=1)
    texts = [" ".join(f"w{5 + (7 * row + word) % 80}" for word in range(1 + (row * 5) % 13)) for row in range(10)]
    labels = [row % 3 for row in range(10)]
    data = validation(texts, labels, student.tokenizer)
    assert [row for batch in data.val_dataloader().dataset.plan for row in batch] != list(range(10))
    kept = predict(trainer, DistilBERTTask(temperature=1.0, soft=1.0, gold=1.0, **engine(student, teacher)), data).to_pydict()
    assert kept["row"] == list(range(10))
    assert kept["label"] == labels
    assert kept["length"] == [3 + (row * 5) % 13 for row in range(10)]  # with [CLS] and [SEP]
    for who, network in (("student", student), ("teacher", teacher)):
        for text, logits in zip(texts, kept[who], strict=True):
            with torch.no_grad():
                alone = network.model(**network.tokenizer(text, return_tensors="pt")).logits[0]
            torch.testing.assert_close(torch.tensor(logits), alone, atol=1e-5, rtol=1e-4)


def test_equal_architectures_are_timed_once_whatever_their_labels_are_called(monkeypatch):
    """And others, if only in their width, by themselves."""
    monkeypatch.setattr(artifact, "times", lambda calls: [Time(len(calls) + place, 9.0) for place, _ in enumerate(calls)])
    words = {"vocab_size": 99, "embedding_size": 4}
    one, same, other = (
        BiLSTMForSequenceClassification(BiLSTMConfig(hidden_size=size, **label_settings(labels), **words)).eval()
        for size, labels in ((3, "ab"), (3, "cd"), (4, "ab"))
    )
    assert latency([one, same, other, one], 5) == [2, 2, 3, 2]


def test_a_stage_without_a_task_keeps_none(make_encoder, engine, trainer):
    assert predict(trainer, MaskedLM(**engine(make_encoder(), None)), None) is None


def test_operations_are_those_of_the_formulas():
    """specs/low-resource.md, section 6.5, for the LSTM; Vaswani et al. 2017 for the encoder; a multiply-add is two."""
    length, width, inner, layers = 20, 64, 128, 2
    bert = BertConfig(
        vocab_size=99, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=4, num_labels=3
    )
    of_layer = length * (4 * width * width + 2 * width * inner) + 2 * length * length * width
    expected = 2 * (layers * of_layer + width * width + 3 * width)  # and the pooler and the head, of one position
    assert megaflops(BertForSequenceClassification(bert).eval(), length) == pytest.approx(expected / 1e6)
    words = {"vocab_size": 99, "num_labels": 2}
    lstm = BiLSTMForSequenceClassification(BiLSTMConfig(embedding_size=300, hidden_size=150, **words)).eval()
    assert megaflops(lstm, length) == pytest.approx((16 * 150 * (300 + 150) * length + 2 * 300 * 2) / 1e6)
    cnn = CNNForSequenceClassification(CNNConfig(embedding_size=7, filters=5, kernel_sizes=[3], **words)).eval()
    assert megaflops(cnn, length) == pytest.approx((2 * (length + 2) * 3 * 7 * 5 + 2 * 5 * 2) / 1e6)


def test_an_artifact_is_left_whole_with_its_record_and_checksums(make_encoder, engine, tmp_path):
    """The labels are those that the student has learned, where the task says only how."""
    learned = {"_target_": "kd_lightning.data.table.classes", "file": "mine.csv", "hub": None, "label": "stars"}
    place = tmp_path / "artifacts" / "student"
    known = {
        "name": "student",
        "identity": "0123456789abcdef",
        "setting": "fedcba9876543210",
        "method": "distilbert",
        "stage": "task",
        "scale": "demo",
        "seed": 7,
        "metric": "val/student/accuracy",
    }
    task = {"name": "table", "monitor": "accuracy", "labels": learned, "text": ["review"], "max_length": 16}
    settings = known | {
        "artifact": str(place),
        "export_dtype": "float32",
        "task": task,
        "data": {"max_length": 16},
        "networks": {"teacher": {"path": "a/teacher"}},
        "starts_from": {"teacher": "a/teacher"},
    }
    student = make_encoder(labels=LABELS, layers=1)
    distiller = DistilBERTTask(temperature=1.0, soft=1.0, gold=1.0, **engine(student, make_encoder(labels=LABELS, layers=1)))
    save(OmegaConf.create(settings), "python train.py a='\n'", {"val/student/accuracy": 0.5}, None, distiller)
    (folder,) = (tmp_path / "artifacts").iterdir()
    made = yaml.safe_load((folder / "run.yaml").read_text())
    assert made.pop("settings") == settings
    assert made == known | {
        "task": task | {"labels": list(LABELS)},
        "teacher": "a/teacher",
        "starts_from": {"teacher": "a/teacher"},
        "command": "python train.py a='\\n'",
    }
    files = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "config.json", "run.yaml", "metrics.json"} < files
    for name, about in json.loads((folder / "manifest.json").read_text())["files"].items():
        files.discard(name)
        assert about["sha256"] == hashlib.new("sha256", (folder / name).read_bytes()).hexdigest()
    assert files == {"README.md", "manifest.json"}


def test_operations_of_a_deberta_are_counted_and_its_weights_learn_on():
    """A layer without relative positions does what a BERT's does; with them it does more."""
    length, shape = 8, {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    counts = []
    for more in ({}, {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}):
        model = DebertaV2ForMaskedLM(DebertaV2Config(vocab_size=99, max_position_embeddings=32, **shape, **more)).eval()
        counts.append(megaflops(model, length))
        assert all(p.requires_grad for p in model.parameters())
    of_layer = length * (4 * 16 * 16 + 2 * 16 * 32) + 2 * length * length * 16
    assert counts[0] == pytest.approx(2 * (2 * of_layer + length * (16 * 16 + 16 * 99)) / 1e6)
    assert counts[1] > counts[0]


def test_a_figure_that_cannot_be_had_is_left_out_and_said(capsys):
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForMaskedLM(BertConfig(vocab_size=99, max_position_embeddings=8, **shape)).eval()
    other = BertForMaskedLM(BertConfig(vocab_size=3, max_position_embeddings=32, **shape)).eval()
    assert megaflops(model, 9) is None
    assert "BertForMaskedLM: its number of operations cannot be measured and is left out (" in capsys.readouterr().out
    times = latency([model, other], 9)
    assert times[0] is None
    assert times[1] > 0
    assert "BertForMaskedLM: its latency cannot be measured and is left out (" in capsys.readouterr().out


def test_batches_come_into_the_order_of_the_rows_and_are_not_held_meanwhile():
    plan, made, most = np.random.default_rng(0).permutation(20).reshape(10, 2), [], []

    def batches():
        for rows in plan:
            batch = torch.from_numpy(rows)[:, None] * torch.tensor([1.0, 10.0])
            made.append(weakref.ref(batch))
            most.append(sum(kept() is not None for kept in made))
            yield batch
            del batch

    found = in_row_order(batches(), plan, 20)
    assert found.tolist() == [[row, 10.0 * row] for row in range(20)]
    assert max(most) <= 2
    assert len(most) == 10
