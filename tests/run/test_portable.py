"""Small students anywhere: by pipeline once the package is imported, and by plain transformers with the code in the folder."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, pipeline

from kd_lightning import manifest
from kd_lightning.run import reading
from kd_lightning.run.portable import add_code
from kd_lightning.student.adabert.network import AdaBertConfig
from kd_lightning.student.bilstm import BiLSTMConfig
from kd_lightning.student.bow import BowConfig
from kd_lightning.student.cnn import CNNConfig
from kd_lightning.student.ib_bert import IBBertConfig

SMALL = {"vocab_size": 97, "embedding_size": 6}
CELL = {"2": {"0": "conv_3", "1": "average_pool"}, "3": {"0": "max_pool"}, "4": {"3": "identity"}}
FLAGS = {"use_bottleneck": True, "use_bottleneck_attention": False, "key_query_shared_bottleneck": False}
SHAPE = {"vocab_size": 97, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
STUDENTS = {  # name -> configuration, classes
    "bilstm of pairs": (BiLSTMConfig(hidden_size=5, siamese=True, **SMALL), 3),
    "cnn, a regression of pairs": (CNNConfig(filters=4, kernel_sizes=[2, 3], siamese=True, **SMALL), 1),
    "bag of words, a regression": (BowConfig(head_size=7, **SMALL), 1),
    "adabert of pairs": (AdaBertConfig(vocab_size=97, channels=8, pair=True, architecture={"cells": 2, "nodes": CELL}), 3),
    "ib-bert": (IBBertConfig(embedding_size=16, intra_bottleneck_size=16, **SHAPE, **FLAGS), 3),
}
TEXTS = [("w5 w9 w30", "w41 w8"), ("w7 w7 w12 w80", "w5")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory, make_tokenizer):
    """name -> folder, with its code."""
    folders = {}
    for number, (name, (config, classes)) in enumerate(STUDENTS.items()):
        labels = ["no", "yes", "maybe"][:classes]
        kind = "regression" if classes == 1 else "single_label_classification"
        given = config.to_dict() | {"id2label": dict(enumerate(labels)), "problem_type": kind}
        torch.manual_seed(number)
        model = AutoModelForSequenceClassification.from_config(type(config)(**given)).eval()
        folders[name] = tmp_path_factory.mktemp("saved")
        add_code(model, folders[name])
        model.save_pretrained(folders[name])
        make_tokenizer().save_pretrained(folders[name])
        manifest.write(folders[name])
    return folders


def logits(folder, text):
    model, tokenizer = reading.model(folder), reading.tokenizer(folder)
    with torch.no_grad():
        return model(**tokenizer(*([part] for part in text), return_tensors="pt")).logits[0]


@pytest.mark.parametrize("name", STUDENTS)
def test_a_pipeline_answers_as_the_model_for_pairs_and_regressions_too(name, saved):
    answer = pipeline("text-classification", model=str(saved[name]), top_k=None)
    pairs, classes = "pairs" in name, STUDENTS[name][1]
    for one, two in TEXTS:
        expected = logits(saved[name], (one, two) if pairs else (one,))
        found = answer([{"text": one, "text_pair": two} if pairs else one])[0]
        scores = {entry["label"]: entry["score"] for entry in found}
        wanted = expected if classes == 1 else expected.softmax(-1)
        ours = torch.tensor([scores[label] for label in ["no", "yes", "maybe"][:classes]])
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STUDENTS)
def test_automodel_loads_its_weights(name, saved):
    model = AutoModel.from_pretrained(saved[name])
    kept = load_file(saved[name] / "model.safetensors")
    prefix = "" if name != "ib-bert" else "mobilebert."
    own = model.state_dict()
    assert len(own) > 2
    assert all(torch.equal(tensor, kept[f"{prefix}{key}"]) for key, tensor in own.items())


SCRIPT = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification as M, AutoTokenizer as T
folders, texts = json.loads(sys.argv[1]), json.loads(sys.argv[2])
found = []
for folder in folders:
    model = M.from_pretrained(folder, trust_remote_code=True).eval()
    one, two = zip(*texts)
    batch = T.from_pretrained(folder)(list(one), list(two), padding=True, return_tensors="pt")
    with torch.no_grad():
        found.append(model(**batch).logits.tolist())
assert not [name for name in sys.modules if name.startswith("kd_lightning")]
json.dump(found, open(sys.argv[3], "w"))
"""


def test_plain_transformers_runs_the_code_in_the_folder_where_it_is_trusted(saved, tmp_path):
    """In a process that never hears of this package."""
    env = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    out = tmp_path / "logits.json"
    given = [json.dumps([str(folder) for folder in saved.values()]), json.dumps(TEXTS), str(out)]
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, *given]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    for name, found in zip(saved, json.loads(out.read_text()), strict=True):
        for text, ours in zip(TEXTS, found, strict=True):
            torch.testing.assert_close(torch.tensor(ours), logits(saved[name], text), rtol=1e-4, atol=1e-5)


def test_code_in_a_folder_is_neither_run_nor_vouched_for(saved, tmp_path):
    folder = saved["bag of words, a regression"]
    names = {file.name for file in folder.glob("*.py")}
    assert names == {"bow.py", "low_resource_model.py"}
    assert not names & json.loads((folder / "manifest.json").read_text())["files"].keys()
    before = {name: (folder / name).read_text() for name in names}
    try:
        for name in names:
            (folder / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n{before[name]}")
        manifest.check(folder)
        assert type(reading.model(folder)).__module__ == "kd_lightning.student.bow"
        assert not (tmp_path / "ran").exists()
        AutoConfig.from_pretrained(folder, trust_remote_code=True)  # the control: known kinds are ours even then
    finally:
        for name, text in before.items():
            (folder / name).write_text(text)
