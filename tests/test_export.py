"""An exported student, run by onnxruntime and tokenizers themselves, against plain transformers, one text at a time."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, MobileBertConfig, PreTrainedTokenizerFast

from kd_lightning import export, export_check, manifest
from kd_lightning.export_check import Figures, changed
from kd_lightning.exported import Exported
from kd_lightning.run.timing import Time
from kd_lightning.student.adabert.network import AdaBertConfig
from kd_lightning.student.bilstm import BiLSTMConfig
from kd_lightning.student.bow import BowConfig
from kd_lightning.student.cnn import CNNConfig

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install -e '.[export]'")
pytest.importorskip("onnxscript", reason="pip install -e '.[export]'")

SMALL = {"vocab_size": 97, "embedding_size": 6, "dropout": 0.0}
CELL = {"2": {"0": "conv_3", "1": "average_pool"}, "3": {"0": "max_pool", "2": "dilated_3"}, "4": {"3": "identity"}}
BOTTLENECK = {"embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2, "num_hidden_layers": 2}
WIDE = {"vocab_size": 97, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 32, "max_position_embeddings": 64}
STUDENTS = {  # name -> configuration (None: the tiny BERT), how many texts a row has, how many classes
    "bert": (None, 1, 3),
    "distilbert of pairs": ("distilbert", 2, 3),
    "mobilebert": (MobileBertConfig(**WIDE, **BOTTLENECK), 1, 3),
    "bilstm of pairs": (BiLSTMConfig(hidden_size=5, num_hidden_layers=2, siamese=True, **SMALL), 2, 3),
    "cnn, a regression of pairs": (CNNConfig(filters=4, kernel_sizes=[2, 5], siamese=True, **SMALL), 2, 1),
    "bag of words": (BowConfig(head_size=7, **SMALL), 1, 3),
    "bag of words, a regression": (BowConfig(head_size=7, **SMALL), 1, 1),
    "adabert of pairs": (AdaBertConfig(vocab_size=97, channels=8, pair=True, architecture={"cells": 2, "nodes": CELL}), 2, 3),
}
LABELS = ["maybe", "no", "yes"]


def words(row: int, count: int) -> str:
    return " ".join(f"w{5 + (11 * row + 7 * place + row * place) % 90}" for place in range(count))


TEXTS = [(words(row, 1 + 5 * row % 17), words(row + 50, 1 + 3 * row % 11)) for row in range(40)]
TEXTS[7] = ("", "")


@pytest.fixture
def made(tmp_path, make_encoder, make_tokenizer, write_record):
    """An artifact of random weights, and the words that say where its task's rows are."""

    def make(name: str, length: int = 12):
        config, texts, classes = STUDENTS[name]
        labels, folder = LABELS[:classes] if classes > 1 else ["score"], tmp_path / "artifact"
        if config is None or isinstance(config, str):
            model = make_encoder(config or "bert", labels=labels, layers=2).model
        else:
            config = type(config)(**config.to_dict() | {"id2label": dict(enumerate(labels)), "num_labels": classes})
            torch.manual_seed(0)
            model = AutoModelForSequenceClassification.from_config(config).eval()
            with torch.no_grad():  # answers that differ from text to text
                for parameter in model.parameters():
                    parameter.mul_(3) if parameter.ndim > 1 else parameter.add_(0.1 * torch.randn(parameter.shape))
        model.save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        task = "table" if classes > 1 else "table_regression"
        columns = ["one", "two"][:texts]
        about = {"name": task, "monitor": "accuracy" if classes > 1 else "pearson", "labels": labels, "text": columns}
        write_record(folder, task=about | {"max_length": length})
        manifest.write(folder)
        (folder / "README.md").write_text("# A card\n")
        rows = [
            dict(zip(columns, text, strict=False)) | {"label": LABELS[row % 3] if classes > 1 else row / 7 - 2.5}
            for row, text in enumerate(TEXTS)
            if text[0]
        ]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        files = [f"task.files.{split}={tmp_path / 'rows.jsonl'}" for split in ("train", "validation")]
        return folder, [*files, f"task.text=[{','.join(columns)}]", "task.label=label"]

    return make


@pytest.fixture
def run(monkeypatch, capfd):
    def call(folder, settings, *more):
        monkeypatch.setattr(export_check, "times", lambda calls: [Time(1.0, 2.0) for call in calls if call() is not None])
        monkeypatch.setattr(sys, "argv", ["export", str(folder), *more, "--set", *settings])
        export.main()
        return capfd.readouterr().out

    return call


def plain(folder, texts, length: int) -> np.ndarray:
    """[N, C], one by one."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        batch = tokenizer(*([part] for part in text), truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            found.append(model(**batch).logits[0].numpy())
    return np.stack(found)


@pytest.mark.parametrize("name", [name for name in STUDENTS if name != "bag of words"])
def test_an_export_answers_as_plain_transformers_at_every_length_and_batch(name, made, run):
    folder, settings = made(name)
    run(folder, settings)
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    tokenizer = Tokenizer.from_file(str(folder / "onnx" / "tokenizer.json"))
    texts = [text[: STUDENTS[name][1]] for text in TEXTS]
    expected, lengths = plain(folder, texts, 12), set()
    for size in (1, 2, 40):
        for start in range(0, 40, size):
            rows = tokenizer.encode_batch([text if len(text) == 2 else text[0] for text in texts[start : start + size]])
            inputs = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
            batch = {to: np.array([getattr(row, name) for row in rows], np.int64) for to, name in inputs.items()}
            lengths.add(batch["input_ids"].shape[1])
            (logits,) = session.run(None, {place.name: batch[place.name] for place in session.get_inputs()})
            np.testing.assert_allclose(logits, expected[start : start + size], rtol=1e-4, atol=2e-5)
    assert len(lengths) > 4
    assert max(lengths) == 12  # cut by the file itself
    assert expected.std(0).min() > 1e-3
    about = json.loads((folder / "onnx" / "export.json").read_text())
    assert about["figures"]["onnx"]["changed"] == 0
    assert about["figures"]["onnx"]["score"] == about["figures"]["pytorch"]["score"]
    assert {path.name for path in (folder / "onnx").iterdir()} == {
        "model.onnx",
        "tokenizer.json",
        "export.json",
        "manifest.json",
    }
    manifest.check(folder)


def test_a_text_without_a_token_has_an_answer_where_the_tokenizer_adds_none(made, run):
    folder, settings = made("bag of words, a regression")
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_input_names": ["input_ids", "attention_mask"]}
    single = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "w5": 5}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=single, **names).save_pretrained(folder)
    manifest.write(folder)
    run(folder, settings)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([[0]]), attention_mask=torch.tensor([[0]])).logits.numpy()
    np.testing.assert_allclose(Exported(folder / "onnx").logits([("",)]), expected, rtol=1e-5, atol=1e-6)


def test_int8_is_smaller_and_refused_where_it_changes_too_much_and_the_export_before_it_stays(made, run):
    folder, settings = made("bag of words")
    said = run(folder, settings, "--int8", "--tolerance", "1")
    figures = json.loads((folder / "onnx" / "export.json").read_text())["figures"]
    assert "int8" in said
    assert figures["int8"]["megabytes"] < figures["onnx"]["megabytes"]
    assert 0 < figures["int8"]["distance"] > 10 * figures["onnx"]["distance"]
    card = (folder / "README.md").read_text()
    assert card.startswith("# A card\n")
    before = {path.name: path.read_bytes() for path in (folder / "onnx").iterdir()}
    with pytest.raises(SystemExit, match=r"(onnx|int8): \S+% of the answers to 39 validation rows are not PyTorch's"):
        run(folder, settings, "--int8", "--tolerance", "-1")
    assert {path.name: path.read_bytes() for path in (folder / "onnx").iterdir()} == before
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith("onnx")) == ["onnx"]
    run(folder, settings)
    assert (folder / "README.md").read_text().count("## Exported") == card.count("## Exported") == 1
    assert "int8" not in (folder / "README.md").read_text()


README = Path(__file__).parents[1] / "README.md"
(SERVED,) = re.findall(r"<!-- serve -->\n```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
ALONE = ("onnxruntime", "tokenizers", "numpy")


@pytest.fixture
def alone(tmp_path) -> Path:
    """The Python of an environment that has these packages and not one more."""
    folder = tmp_path / "alone"
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for package in ALONE:
        found = importlib.metadata.distribution(package)
        for name in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            (site / name).symlink_to(found.locate_file(name))
    return folder / "bin" / "python"


def test_the_lines_of_the_readme_give_the_same_answers_without_pytorch(made, run, alone):
    folder, settings = made("bag of words")
    run(folder, settings)
    texts = [one for one, _ in TEXTS]
    lines = SERVED.replace("artifacts/demo/docs_topic/tinybert/onnx", str(folder / "onnx"))
    lines = re.sub(r"(?<=encode_batch\()\[.*?\](?=\))", lambda _: repr(texts), lines)
    lines += (
        "import sys; print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'transformers', 'kd_lightning'}))"
    )
    done = subprocess.run([alone, "-I", "-c", lines], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers, heavy = done.stdout.splitlines()
    expected = [LABELS[number] for number in plain(folder, [(text,) for text in texts], 12).argmax(1)]
    assert ast.literal_eval(answers) == expected
    assert len(set(expected)) > 1
    assert heavy == "[]"
    assert subprocess.run([alone, "-I", "-c", "import torch"], capture_output=True).returncode == 1
    assert len([line for line in SERVED.splitlines() if line]) <= 12


def test_openvino_answers_alike(made, run):
    pytest.importorskip("openvino", reason="pip install -e '.[openvino]'")
    folder, settings = made("bag of words")
    run(folder, settings, "--openvino")
    texts = [(one,) for one, _ in TEXTS]
    found = Exported(folder / "onnx", "openvino", 1).logits(texts)
    np.testing.assert_allclose(found, plain(folder, texts, 12), rtol=1e-4, atol=2e-5)


def test_a_score_is_another_answer_where_it_moves_by_a_hundredth_of_the_deviation():
    theirs = torch.tensor([[0.0], [2.0], [0.0], [2.0]])  # their deviation is 1
    ours = theirs + torch.tensor([[0.0], [0.009], [-0.011], [0.011]])
    assert changed(ours, theirs).tolist() == [False, False, True, True]
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert changed(logits.flip(1) * torch.tensor([[1.0], [-1.0]]), logits).tolist() == [True, False]


def test_what_is_slower_than_float32_is_said():
    def timed(one: float, many: float) -> Figures:
        return Figures(1.0, 0.0, 0.0, 0.5, {1: Time(one, 2 * one), 32: Time(many, 2 * many)})

    found = {"pytorch": timed(9, 90), "onnx": timed(1, 10), "int8": timed(4, 12), "openvino": timed(1.05, 9)}
    expected = "int8 is slower than float32 in ONNX Runtime here: it takes 4.0 times as long at batch 1 and 1.2 times as long"
    (said,) = export.slower(found)
    assert said.startswith(expected)


def test_a_missing_package_is_said_with_its_extra(made, run, monkeypatch):
    folder, settings = made("bag of words")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    with pytest.raises(SystemExit, match=r"openvino is wanted and not installed. Run pip install -e '\.\[openvino\]'"):
        run(folder, settings, "--openvino")
    assert not (folder / "onnx").exists()


def test_rows_of_other_classes_are_refused_and_a_damaged_export_is_said_to_be_so(made, run, tmp_path):
    folder, settings = made("bag of words, a regression")
    run(folder, settings)
    file = folder / "onnx" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"model\.onnx has .* bytes in place of"):
        Exported(folder / "onnx")
    (folder / "onnx" / "manifest.json").unlink()
    file.write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"model\.onnx cannot be run by onnxruntime"):
        Exported(folder / "onnx")
    (folder / "onnx" / "export.json").write_text('{"labels": [], "inputs": ["../x"], "text": 1, "length": 1}')
    with pytest.raises(ValueError, match=r"export\.json does not say which labels and inputs"):
        Exported(folder / "onnx")
    other, settings = made("bag of words")
    lines = (tmp_path / "rows.jsonl").read_text().replace("maybe", "never")
    (tmp_path / "rows.jsonl").write_text(lines)
    with pytest.raises(SystemExit, match=r"names the classes maybe, no, yes; those of these rows are never, no, yes"):
        run(other, settings)
