"""What one writes without a framework: fine-tune a BERT, cut every second layer out, distil with soft targets.

    python benchmarks/by_hand.py --pretrained <model> --train train.csv --validation dev.csv --text a b --label c --out <folder>

It is the Hugging Face Trainer with the usual settings, four epochs and then six (`pip install -e '.[benchmarks]'`). A label
column of numbers with a point is a regression. `own_data.py` holds our command against it.
"""

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import torch
from datasets import load_dataset
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

TEMPERATURE = 2.0


class Distil(Trainer):
    teacher = None

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        outputs = model(**inputs)
        with torch.no_grad():
            theirs = self.teacher(**inputs).logits
        if model.config.num_labels == 1:
            loss = F.mse_loss(outputs.logits, theirs)
        else:
            ours, theirs = F.log_softmax(outputs.logits / TEMPERATURE, -1), F.softmax(theirs / TEMPERATURE, -1)
            loss = F.kl_div(ours, theirs, reduction="batchmean") * TEMPERATURE**2
        return (loss, outputs) if return_outputs else loss


def score(answers):
    logits, labels = answers
    if logits.shape[1] == 1:
        return {"score": float(np.corrcoef(logits[:, 0], labels)[0, 1])}
    return {"score": float((logits.argmax(1) == labels).mean())}


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
for name in ("pretrained", "train", "validation", "label", "out"):
    parser.add_argument(f"--{name}", required=True)
parser.add_argument("--text", nargs="+", required=True)
parser.add_argument("--seed", type=int, default=42)
asked = parser.parse_args()

rows = load_dataset("csv", data_files={"train": asked.train, "validation": asked.validation})
classes = sorted(set(rows["train"][asked.label]))
number = isinstance(classes[0], float)
tokenizer = AutoTokenizer.from_pretrained(asked.pretrained)


def tokens(row):
    known = row[asked.label] if number else classes.index(row[asked.label])
    return tokenizer(*(row[column] for column in asked.text), truncation=True, max_length=128) | {"labels": known}


rows = rows.map(tokens, remove_columns=rows["train"].column_names)
kind = {"num_labels": 1 if number else len(classes), "dtype": torch.float32}
teacher = AutoModelForSequenceClassification.from_pretrained(asked.pretrained, **kind)
usual = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "warmup_steps": 0.1,
    "bf16": True,
    "use_cpu": True,
}
usual |= {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "score"}
usual |= {
    "save_total_limit": 1,
    "report_to": "none",
    "seed": asked.seed,
    "disable_tqdm": True,
    "train_sampling_strategy": "group_by_length",
}
data = {
    "train_dataset": rows["train"],
    "eval_dataset": rows["validation"],
    "processing_class": tokenizer,
    "compute_metrics": score,
}


def fit(kind, model, name, epochs, rate):
    settings = TrainingArguments(f"{asked.out}/{name}", num_train_epochs=epochs, learning_rate=rate, **usual)
    trainer = kind(model, settings, **data)
    trainer.train()
    return trainer.evaluate()["eval_score"]


found = {"teacher": fit(Trainer, teacher, "teacher", 4, 5e-5)}
student = copy.deepcopy(teacher)
layers = student.base_model.encoder.layer
student.base_model.encoder.layer = torch.nn.ModuleList(layers[1::2])
student.config.num_hidden_layers = len(layers) // 2
Distil.teacher = teacher.eval()
found["student"] = fit(Distil, student, "student", 6, 1e-4)
Path(asked.out, "scores.json").write_text(json.dumps(found))
print(found)
