"""Every stage of every method on networks 16 wide and texts of a few words, without dropout."""

import random
from collections.abc import Callable
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from kd_lightning.encoder import Encoder
from kd_lightning.run.identity import digest, settings

CONF = Path(__file__).parent.parent / "conf"
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
SMALL = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "channels": 16}
ROWS = 18  # to train on: an odd number of batches
FURTHER = [  # beside each method's stages as they are
    ("tinybert", "general", "method.valid_only=true"),
    ("tinybert", "intermediate", "method.valid_only=true", "teacher.stored=true"),
    ("tinybert", "prediction", "method.gold=1", "task.label_budget=10"),
    ("distilbert", "task", "method.task_soft=0.5"),
    ("mobilebert", "general", "method.strategy=auxiliary"),
    ("mobilebert", "progressive", "method.normalised=0", "method.mean=0", "method.variance=0", "method.below=0"),
    ("mobilebert", "task", "method.task_soft=1", "method.task_feature=1", "method.layers=[[1,1],[3,4]]"),
]


def saved(encoder: Encoder, folder: Path) -> str:
    encoder.tokenizer.model_max_length = 64
    encoder.model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    return str(folder)


def material(folder: Path, make_encoder: Callable, make_bottleneck_pair: Callable) -> None:
    """Models, a corpus and a task; the words of a class tell it."""
    student, teacher = make_bottleneck_pair(blocks=3)
    student.model.config.attention_probs_dropout_prob = 0.0
    saved(student, folder / "thin")
    saved(teacher, folder / "wide")
    saved(make_encoder(seed=1), folder / "bert")
    saved(make_encoder(seed=2, layers=2), folder / "small")
    saved(make_encoder(labels=("negative", "positive")), folder / "classifier")
    (folder / "classifier" / "architecture.json").write_text('{"cells": 2, "nodes": {"2": {"0": "conv_3", "1": "max_pool"}}}')
    chance = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{chance.randrange(10, 90)}" for _ in range(count))

    (folder / "corpus.txt").write_text("\n\n".join(words(chance.randrange(10, 20)) for _ in range(38)) + "\n")
    (folder / "SST-2").mkdir()
    for split, size in (("train", ROWS), ("dev", 10)):
        rows = [f"w{5 + n % 2} {words(chance.randrange(1, 18))}\t{n % 2}" for n in range(size)]
        (folder / "SST-2" / f"{split}.tsv").write_text("sentence\tlabel\n" + "\n".join(rows) + "\n")


def _stages(folder: Path, method: str, *words: str) -> DictConfig:
    given = [f"method={method}", *words, "task=sst2", f"glue={folder}", f"corpus=[{folder}/corpus.txt]", "logger=none"]
    cfg = compose("train", [*given, f"cache={folder}/cache", f"teacher.pretrained={folder}/bert"])
    for name in SMALL.keys() & set(cfg.student):
        cfg.student[name] = SMALL[name]
    if method == "mobilebert":
        cfg.student.num_hidden_layers, cfg.student.embedding_size, cfg.student.intra_bottleneck_size = 3, 16, 8
    for holder in (cfg.student, cfg.student.get("architecture", {})):
        if "dropout" in holder:
            holder.dropout = 0.0
    for name, stage in cfg.stages.items():
        size = 3 if method == "adabert" else 2 if name == "progressive" else 4  # a phase wants two updates
        stage.data.update({"max_length": 24, "batch_size": size})
        if "max_sequences" in stage.data:
            stage.data.max_sequences = ROWS
        stage.trainer.update(
            {"max_epochs": 1, "max_steps": -1, "precision": "32-true", "accelerator": "cpu", "num_sanity_val_steps": 0}
        )
    return cfg.stages


def _resolved(folder: Path, method: str, stages: DictConfig, stage: str) -> DictConfig:
    """A stage that starts from the models of `material`."""
    models = {"teacher": "classifier", "pretraining": "wide", "search": "classifier"}
    student = "thin" if method == "mobilebert" else "small"
    before = {name: stages[name].path for name in stages[stage].starts_from}
    for name in before:
        stages[name].path = f"{folder}/{models.get(name, student)}"
    resolved = OmegaConf.to_container(stages[stage], resolve=True)
    for name, path in before.items():
        stages[name].path = path
    return OmegaConf.create(resolved | {"cache": f"{folder}/cache"})


def all_pairs(folder: Path) -> dict[str, DictConfig]:
    """By a name; those that are the same stage once."""
    found = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for method in METHODS:
            stages = _stages(folder, method)
            for stage in stages:
                if not OmegaConf.is_interpolation(stages, stage):
                    run = _resolved(folder, method, stages, stage)
                    found.setdefault(digest(settings(OmegaConf.to_container(run))), (f"{method}-{stage}", run))
        for method, stage, *words in FURTHER:
            name = " ".join([f"{method}-{stage}", *words])
            found[name] = name, _resolved(folder, method, _stages(folder, method, *words), stage)
    return dict(found.values())
