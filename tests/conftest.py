"""Tiny networks with random weights, a tokenizer made in memory, synthetic batches. Nothing is downloaded."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import lightning as L
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
)

from kd_lightning.encoder import Encoder
from kd_lightning.student.mobilebert import ib_bert, mobilebert
from kd_lightning.views import Batch, Readout, Spec, View

torch.set_num_threads(1)  # tensors are too small to share out, and threads that wait for each other cost ten times more

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = 97
KINDS = {
    "bert": (BertConfig, BertForMaskedLM, BertForSequenceClassification, {}),
    "roberta": (RobertaConfig, RobertaForMaskedLM, RobertaForSequenceClassification, {}),
    "electra": (ElectraConfig, ElectraForMaskedLM, ElectraForSequenceClassification, {"embedding_size": 16}),
    "distilbert": (DistilBertConfig, DistilBertForMaskedLM, DistilBertForSequenceClassification, {}),
}
DISTILBERT_NAMES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., BertTokenizerFast]:
    """WordPiece with the five special tokens (ids 0 to 4) and the words w5, w6 ... of id 5, 6 ..."""

    def make(vocabulary: int = VOCABULARY, max_length: int = 64) -> BertTokenizerFast:
        words = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), vocabulary))]
        table = {word: i for i, word in enumerate(words)}
        return BertTokenizerFast(vocab=table, do_lower_case=True, model_max_length=max_length)

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer) -> BertTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def make_encoder(make_tokenizer) -> Callable[..., Encoder]:
    """A masked LM, or with labels a classifier. Every parameter is random, biases and norms too: nothing is equal by
    accident."""

    def make(
        kind: str = "bert",
        *,
        labels: Sequence[str] = (),
        layers: int = 4,
        hidden: int = 32,
        heads: int = 4,
        dropout: float = 0.0,
        seed: int = 0,
        vocabulary: int = VOCABULARY,
        positions: int = 64,
    ) -> Encoder:
        config_class, masked_lm, classifier, more = KINDS[kind]
        shape = {
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": 2 * hidden,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
        }
        if kind == "distilbert":
            shape = {DISTILBERT_NAMES[name]: value for name, value in shape.items()}
            shape["seq_classif_dropout"] = dropout
        if labels:
            more = more | {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}
        config = config_class(
            vocab_size=vocabulary, max_position_embeddings=positions, pad_token_id=0, tie_word_embeddings=True, **shape, **more
        )
        model = (classifier if labels else masked_lm)(config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                middle = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
                parameter.copy_(middle + 0.15 * torch.randn(parameter.shape, generator=generator))
        return Encoder(model, make_tokenizer(vocabulary)).eval()

    return make


@pytest.fixture(scope="session")
def make_bottleneck_pair(make_tokenizer, tmp_path_factory) -> Callable[..., tuple[Encoder, Encoder]]:
    """A MobileBERT student and the IB-BERT that teaches it, both masked LMs with random parameters."""
    vocabulary = tmp_path_factory.mktemp("vocabulary")
    make_tokenizer().save_pretrained(vocabulary)
    BertConfig().save_pretrained(vocabulary)

    def make(*, blocks: int = 3, seed: int = 0, **other) -> tuple[Encoder, Encoder]:
        shape = {"num_hidden_layers": blocks, "num_attention_heads": 4, "embedding_size": 16}
        torch.manual_seed(seed)
        wide = {"hidden_size": 32, "intra_bottleneck_size": 64, "intermediate_size": 96, "num_feedforward_networks": 1}
        norms = {"normalization_type": "layer_norm", "hidden_act": "gelu"}
        teacher = ib_bert(path=vocabulary, max_length=64, **shape, **wide, **norms)
        flags = {"use_bottleneck_attention": False, "key_query_shared_bottleneck": True}
        thin = {"intra_bottleneck_size": 8, "intermediate_size": 16, "num_feedforward_networks": 2}
        norms = {"normalization_type": "no_norm", "hidden_act": "relu"}
        given = {"path": None, "init_from_teacher": True, **shape, **thin, **flags, **norms, **other}
        with torch.no_grad():
            for name, parameter in teacher.named_parameters():
                middle = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
                parameter.copy_(middle + 0.15 * torch.randn(parameter.shape))
            teacher.model.get_input_embeddings().weight[0] = 0  # of the padding, which is its neighbours' neighbour
        return mobilebert(teacher, **given), teacher.eval()

    return make


@pytest.fixture(scope="session")
def write_record() -> Callable[..., None]:
    """Write run.yaml as a stage leaves it, with nothing of ours. changes: of its fields; those of the task are `task`'s."""

    def make(folder: Path, *, task: dict | None = MappingProxyType({}), settings: dict | None = None, **changes) -> None:
        known = {"name": "sst2", "monitor": "accuracy", "labels": ["no", "yes"], "text": ["sentence"], "max_length": 32}
        fields = {
            "name": "tinybert",
            "identity": "0123456789abcdef",
            "setting": "fedcba9876543210",
            "method": "tinybert",
            "stage": "task",
            "scale": "demo",
            "seed": 42,
            "metric": "val/student/accuracy",
            "task": None if task is None else known | dict(task),
            "teacher": "teacher",
            "starts_from": {"teacher": "teacher", "student": "student"},
            "command": "python train.py method=tinybert",
            "settings": settings or {"seed": 42},
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.yaml").write_text(yaml.safe_dump(fields | changes, sort_keys=False), encoding="utf-8")

    return make


class Fixed(nn.Module):
    """A network that shows what it was given, whatever the batch: the protocol of networks and no more."""

    def __init__(self, spec: Spec, view: View, *parameters: Tensor) -> None:
        super().__init__()
        self.spec, self.view = spec, view
        self.own = nn.ParameterList(parameters or [torch.zeros(1)])

    def forward(self, batch: Batch, needs) -> View:
        return self.view


@pytest.fixture(scope="session")
def fixed() -> type[Fixed]:
    return Fixed


@pytest.fixture(scope="session")
def corpus_batch() -> Callable[..., dict[str, Tensor]]:
    """Three sequences of 8, 5 and 3 tokens, four of which are to be predicted. padding: columns of it beyond the longest."""

    def make(*, seed: int = 0, padding: int = 0, vocabulary: int = VOCABULARY) -> dict[str, Tensor]:
        lengths, places = (8, 5, 3), ((0, 2), (0, 6), (1, 1), (2, 1))
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(5, vocabulary, (3, 8), generator=generator)
        ids = torch.cat([ids, torch.zeros(3, padding, dtype=torch.long)], dim=1)
        mask = (torch.arange(8 + padding) < torch.tensor(lengths)[:, None]).long()
        labels = torch.randint(5, vocabulary, (len(places),), generator=generator)
        rows = torch.tensor([b * (8 + padding) + s for b, s in places])
        return {"input_ids": ids * mask, "attention_mask": mask, "rows": rows, "labels": labels}

    return make


@pytest.fixture(scope="session")
def task_batch() -> Callable[..., dict[str, Tensor]]:
    """Pairs of segments of unequal length and one label each."""

    def make(*, seed: int = 0, classes: int = 3, size: int = 4, vocabulary: int = VOCABULARY) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        lengths = 4 + torch.arange(size) % 5
        mask = (torch.arange(8) < lengths[:, None]).long()
        ids = torch.randint(5, vocabulary, (size, 8), generator=generator) * mask
        segments = (torch.arange(8) >= 3).long() * mask
        labels = torch.rand(size, generator=generator) if classes == 1 else torch.arange(size) % classes
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments, "labels": labels}

    return make


@pytest.fixture(scope="session")
def make_view() -> Callable[..., View]:
    """A random View for a batch, with a vocabulary head (classes 0) or a classifier's logits."""

    def make(
        batch: Batch, *, seed: int, layers: int = 4, hidden: int = 6, heads: int = 2, vocabulary: int = 11, classes: int = 0
    ) -> View:
        generator = torch.Generator().manual_seed(seed)
        random = partial(torch.randn, generator=generator)
        size, length = batch["input_ids"].shape
        width = hidden // heads
        states = {k: random(size, length, hidden) for k in range(layers + 1)}
        pairs = {k: (random(size, heads, length, width), random(size, heads, length, width)) for k in states if k}
        weight, bias, scores = random(vocabulary, hidden), random(vocabulary), random(size, max(classes, 1))

        def readout(rows: Tensor) -> Readout:
            return Readout(scores[rows]) if classes else Readout(states[layers].flatten(0, 1)[rows], weight, bias)

        return View(states, pairs, readout)

    return make


@pytest.fixture(scope="session")
def engine() -> Callable[..., dict]:
    """What every method wants beside its own numbers."""

    def make(student: nn.Module, teacher: nn.Module | None, *, lr: float = 1e-3, **other) -> dict:
        optimizer = partial(torch.optim.AdamW, lr=lr)
        given = {"optimizer": optimizer, "weight_decay": 0.01, "schedule": "constant", "warmup": 0.0}
        return {"student": student, "teacher": teacher, **given, **other}

    return make


@pytest.fixture
def process() -> Callable[..., SimpleNamespace]:
    """What a data module asks of its Trainer."""

    def make(*, epoch: int = 0, rank: int = 0, world: int = 1, device: str = "cpu") -> SimpleNamespace:
        progress = SimpleNamespace(current=SimpleNamespace(ready=0))
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
        strategy = SimpleNamespace(root_device=torch.device(device))
        return SimpleNamespace(current_epoch=epoch, global_rank=rank, world_size=world, fit_loop=loop, strategy=strategy)

    return make


class Losses(L.Callback):
    """The loss of each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.seen.append(float(outputs["loss"]))


@pytest.fixture
def fit(tmp_path) -> Callable[..., tuple[L.Trainer, list[float]]]:
    """Train on these batches with Lightning; returns the trainer and the loss of each step."""

    def make(
        distiller: L.LightningModule,
        batches: Sequence[Batch] | L.LightningDataModule,
        *,
        validation: Sequence[Batch] | None = None,
        ckpt_path: str | None = None,
        callbacks: Sequence[L.Callback] = (),
        **options,
    ) -> tuple[L.Trainer, list[float]]:
        losses = Losses()
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        given = {"max_epochs": 1, "enable_checkpointing": False, "num_sanity_val_steps": 0} | quiet | options
        trainer = L.Trainer(accelerator="cpu", default_root_dir=tmp_path, callbacks=[losses, *callbacks], **given)
        loaders = [
            rows
            if rows is None or isinstance(rows, L.LightningDataModule)
            else DataLoader(rows, batch_size=None, generator=torch.Generator())
            for rows in (batches, validation)
        ]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers")
            warnings.filterwarnings("ignore", message=".*have no `val_dataloader`")
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")  # the teacher
            trainer.fit(distiller, *loaders, ckpt_path=ckpt_path, weights_only=True)
        return trainer, losses.seen

    return make
