"""What is measured: for each workload our step and the peer's, on the same weights, the same batch and the same rule."""

import contextlib
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import peers
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertTokenizerFast

from kd_lightning.distiller import Distiller, decay_groups
from kd_lightning.encoder import Encoder
from kd_lightning.losses import soft_cross_entropy
from kd_lightning.method.distilbert import DistilBERT, DistilBERTTask
from kd_lightning.method.tinybert import TransformerDistillation
from kd_lightning.student import transplant
from kd_lightning.terms import AttentionMatch, HiddenMatch, Projection, SoftTargets, examples, real_positions
from kd_lightning.views import Batch

RATE = {"lr": 5e-5, "betas": (0.9, 0.98), "eps": 1e-6}


@dataclass
class Side:
    """One implementation of a training step. parameters: in the same order on both sides of a workload; distiller: ours."""

    batch: Batch
    loss: Callable[[], Tensor]
    parameters: Sequence[nn.Parameter]
    optimizer: Optimizer
    clip: float
    modules: Sequence[nn.Module]
    autocast: str | None = None
    distiller: Distiller | None = None

    def backward(self) -> Tensor:
        context = torch.autocast(self.autocast, torch.bfloat16) if self.autocast else contextlib.nullcontext()
        with context:
            loss = self.loss()
        loss.backward()
        return loss.detach()

    def step(self) -> None:
        self.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gradient(self) -> tuple[float, list[Tensor]]:
        """The loss and the gradient of the whole student, projections included; nothing is updated."""
        loss = self.backward()
        gradient = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self.parameters]
        self.optimizer.zero_grad()
        return float(loss), gradient

    def set_dropout(self, probability: float) -> None:
        for module in self.modules:
            for dropout in module.modules():
                if isinstance(dropout, nn.Dropout):
                    dropout.p = probability


@dataclass(frozen=True)
class Workload:
    """bars: the ratio to reach, by precision. peer(device) and ours(precision, device) build anew from the same seed."""

    name: str
    bars: dict[str, float]
    peer: Callable[[str], Side]
    ours: Callable[[str, str], Side]

    def build(self, side: str, device: str) -> Side:
        """side: "peer", or the precision of ours."""
        return self.peer(device) if side == "peer" else self.ours(side, device)


def tokenizer(vocabulary: int) -> BertTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(special)} | {f"t{i}": i for i in range(5, vocabulary)})


def bert(vocabulary: int = 30522, **shape: int) -> BertConfig:
    """Without dropout, so that both sides compute the same."""
    return BertConfig(vocab_size=vocabulary, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **shape)


def encoders(head: type, config: BertConfig, student: Callable[[Encoder], Encoder]) -> tuple[Encoder, Encoder]:
    """Student and teacher with random weights, the same at every call, and with configurations of their own: they say how a
    network attends, which is not the same for a peer."""
    torch.manual_seed(0)
    teacher = Encoder(head(copy.deepcopy(config)), tokenizer(config.vocab_size))
    return student(teacher).train(), teacher


def text(size: int, length: int, vocabulary: int = 30522) -> dict[str, Tensor]:
    """A batch with 15 % of its real tokens to predict; its sequences fill between 7/8 and all of the length.

    rows and labels as our data modules give them, lm_labels [B, S] as the releases do.
    """
    generator = torch.Generator().manual_seed(1)
    lengths = torch.linspace(length * 7 / 8, length, size).long()
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids = torch.randint(5, vocabulary, (size, length), generator=generator) * mask
    count = int(0.15 * mask.sum())
    rows = torch.multinomial(mask.flatten().float(), count, generator=generator).sort().values
    labels = ids.flatten()[rows]
    lm_labels = torch.full_like(ids, -100).flatten().scatter(0, rows, labels).view_as(ids)
    ids = ids.flatten().scatter(0, rows, 4).view_as(ids)
    return {"input_ids": ids, "attention_mask": mask, "rows": rows, "labels": labels, "lm_labels": lm_labels}


def task(size: int, length: int) -> dict[str, Tensor]:
    """A batch of a task with two classes, padded to its longest row: the sequences of `text`, and labels [B].

    A quarter is of class 1. Of as many in both, networks with random weights, to which all rows look alike, have gradients that
    all but cancel, and in bf16 the rest is rounding.
    """
    batch = text(size, length)
    ids, labels = batch["input_ids"], (torch.arange(size) % 4 == 0).long()
    return {
        "input_ids": ids,
        "attention_mask": batch["attention_mask"],
        "token_type_ids": torch.zeros_like(ids),
        "labels": labels,
    }


def same_projections(linears: nn.Module) -> None:
    """The same random weights in the linears of both sides."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in linears.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)


def distiller_side(distiller: Distiller, batch: Batch, clip: float, precision: str, device: str) -> Side:
    """Our step, as `Trainer.fit` makes it but without the Trainer."""
    for module in distiller.modules():
        if isinstance(module, Projection):
            same_projections(module)
    distiller.to(device)
    if precision == "bf16":
        distiller.teacher.to(torch.bfloat16)
    distiller.train()
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    optimizer = distiller.make_optimizer(decay_groups([distiller.student, distiller.objective], distiller.weight_decay))
    return Side(
        batch=batch,
        loss=lambda: distiller.objective(*distiller.views(batch), batch)[0],
        parameters=[*distiller.student.parameters(), *distiller.objective.parameters()],
        optimizer=optimizer,
        clip=clip,
        modules=[distiller.student],
        autocast=device if precision == "bf16" else None,
        distiller=distiller,
    )


def peer_side(
    loss: Callable[[Batch], Tensor],
    student: nn.Module,
    projections: nn.Module,
    batch: Batch,
    device: str,
    *,
    awake: Sequence[nn.Module] = (),
    **rule,
) -> Side:
    """A straightforward step. awake: teachers that are in train mode, as in a release; rule: clip, weight_decay and what
    AdamW is to be told."""
    clip, weight_decay = rule.pop("clip"), rule.pop("weight_decay")
    student.to(device).train()
    same_projections(projections.to(device))
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    return Side(
        batch=batch,
        loss=lambda: loss(batch),
        parameters=[*student.parameters(), *projections.parameters()],
        optimizer=AdamW(decay_groups([student, projections], weight_decay), **RATE, **rule),
        clip=clip,
        modules=[student, *awake],
    )


def engine(weight_decay: float) -> dict:
    return {
        "optimizer": partial(AdamW, **RATE, fused=True),
        "weight_decay": weight_decay,
        "schedule": "constant",
        "warmup": 0.0,
    }


def distilbert(
    name: str, bars: dict[str, float], *, masked_only: bool, config: BertConfig, layers: int, size: int, length: int
) -> Workload:
    """DistilBERT's general stage with the released weights: T = 2, 5 / 2 / 1, clip 5."""
    weights = {"temperature": 2.0, "soft": 5.0, "mlm": 2.0, "cosine": 1.0, "masked_only": masked_only}
    student = partial(
        transplant.distilbert,
        path=None,
        num_hidden_layers=layers,
        copy_layers="uniform",
        copy_head=True,
        fold_token_type=False,
        freeze_position_embeddings=False,
    )

    def ours(precision: str, device: str) -> Side:
        ours, theirs = encoders(BertForMaskedLM, config, student)
        distiller = DistilBERT(**weights, student=ours, teacher=theirs, **engine(0.0))
        return distiller_side(distiller, text(size, length), 5.0, precision, device)

    def peer(device: str) -> Side:
        ours, theirs = (encoder.model for encoder in encoders(BertForMaskedLM, config, student))
        ours.set_attn_implementation("eager")
        theirs.set_attn_implementation("eager")
        theirs.to(device).eval()
        loss = partial(peers.distilbert, ours, theirs, **weights)
        return peer_side(loss, ours, nn.ModuleList(), text(size, length), device, clip=5.0, weight_decay=0.0)

    return Workload(name, bars, peer, ours)


TINYBERT_4 = {"num_hidden_layers": 4, "hidden_size": 312, "num_attention_heads": 12, "intermediate_size": 1200}


def tinybert(
    name: str, bars: dict[str, float], *, config: BertConfig, shape: dict[str, int], size: int, length: int
) -> Workload:
    """TinyBERT's general stage: embedding, hidden states and attention scores, one shared linear.

    The peer's teacher is in train mode and builds a graph, and layer normalisation and GELU are elementary operations,
    as in the release; there being no dropout, it computes what a teacher in eval mode computes. Its optimizer is a loop
    over tensors (foreach=False), which is kinder than the release's own loop in Python, and clips the global norm as
    ours does.
    """
    student = partial(transplant.smaller, path=None, copy_layers=None, **shape)

    def ours(precision: str, device: str) -> Side:
        ours, theirs = encoders(BertForMaskedLM, config, student)
        distiller = TransformerDistillation(
            embedding=1.0,
            hidden=1.0,
            attention=1.0,
            layers="uniform",
            projection="shared",
            valid_only=False,
            student=ours,
            teacher=theirs,
            **engine(0.01),
        )
        return distiller_side(distiller, text(size, length), 1.0, precision, device)

    def peer(device: str) -> Side:
        ours, theirs = (encoder.model for encoder in encoders(BertForMaskedLM, config, student))
        for model in (ours, theirs):
            model.set_attn_implementation(peers.SCORES)
            peers.spell_out(model)
        theirs.to(device).train()
        fit_dense = nn.Linear(ours.config.hidden_size, theirs.config.hidden_size)
        loss = partial(peers.tinybert, ours.bert, theirs.bert, fit_dense, teacher_graph=True)
        rule = {"clip": 1.0, "weight_decay": 0.01, "foreach": False}
        return peer_side(loss, ours, fit_dense, text(size, length), device, awake=[theirs], **rule)

    return Workload(name, bars, peer, ours)


def textbrewer(name: str, bars: dict[str, float], *, size: int, length: int) -> Workload:
    """TextBrewer's losses on classifiers: soft cross-entropy, hidden states with a linear each, attention scores."""
    temperature = 4.0

    def student(teacher: Encoder) -> Encoder:
        return Encoder(BertForSequenceClassification(bert(**TINYBERT_4)), teacher.tokenizer)

    def ours(precision: str, device: str) -> Side:
        ours, theirs = encoders(BertForSequenceClassification, bert(), student)
        pairs = [[0, 0], [1, 3], [2, 6], [3, 9], [4, 12]]
        terms = {
            "soft": SoftTargets(1.0, loss=partial(soft_cross_entropy, temperature=temperature), rows=examples),
            "hidden": HiddenMatch(1.0, layers=pairs, rows=real_positions, projection=Projection("per_layer")),
            "attention": AttentionMatch(1.0, layers="uniform", valid_only=True),
        }
        distiller = Distiller(terms=terms, student=ours, teacher=theirs, **engine(0.01))
        return distiller_side(distiller, text(size, length), 1.0, precision, device)

    def peer(device: str) -> Side:
        ours, theirs = (encoder.model for encoder in encoders(BertForSequenceClassification, bert(), student))
        ours.set_attn_implementation(peers.SCORES)
        theirs.set_attn_implementation(peers.SCORES)
        loss, projections = peers.textbrewer(ours, theirs.to(device), temperature, device)
        rule = {"clip": 1.0, "weight_decay": 0.01}
        return peer_side(loss, ours, projections, text(size, length), device, **rule)

    return Workload(name, bars, peer, ours)


BERT_LARGE = {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}


def torchdistill(
    name: str, bars: dict[str, float], *, teacher: BertConfig, config: BertConfig, size: int, length: int
) -> Workload:
    """torchdistill's distillation of logits on a task of GLUE, with its numbers for SST-2: T = 3, alpha = 0.9, clip 1.

    Ours is DistilBERT's task stage with both of its terms. The peer's optimizer is AdamW as torch makes it by default.
    Both sides get one batch, so that what rows of like length in a batch save is not measured.
    """
    temperature, alpha = 3.0, 0.9

    def student(of: Encoder) -> Encoder:
        with torch.no_grad():
            of.model.classifier.weight.mul_(10)  # a teacher that is sure of itself: else the soft loss is next to nothing
        return Encoder(BertForSequenceClassification(config), of.tokenizer)

    def ours(precision: str, device: str) -> Side:
        ours, theirs = encoders(BertForSequenceClassification, teacher, student)
        weights = {"temperature": temperature, "gold": alpha, "soft": 1 - alpha}
        distiller = DistilBERTTask(**weights, student=ours, teacher=theirs, **engine(0.0))
        return distiller_side(distiller, task(size, length), 1.0, precision, device)

    def peer(device: str) -> Side:
        ours, theirs = (encoder.model for encoder in encoders(BertForSequenceClassification, teacher, student))
        for model in (ours, theirs):
            model.set_attn_implementation("sdpa")
        loss = peers.torchdistill(ours, theirs.to(device), temperature, alpha)
        return peer_side(loss, ours, nn.ModuleList(), task(size, length), device, clip=1.0, weight_decay=0.0)

    return Workload(name, bars, peer, ours)


NARROW = {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
WIDE = {"config": bert(), "layers": 6, "size": 8, "length": 128}
WORKLOADS = {
    workload.name: workload
    for workload in (
        distilbert("distilbert-all", {"fp32": 1.7, "bf16": 4.5}, masked_only=False, **WIDE),
        distilbert("distilbert-masked", {"fp32": 1.9, "bf16": 4.7}, masked_only=True, **WIDE),
        distilbert(
            "distilbert-256",
            {"fp32": 4.0, "bf16": 9.0},
            masked_only=False,
            config=bert(**NARROW),
            layers=2,
            size=16,
            length=128,
        ),
        tinybert("tinybert-128", {"fp32": 2.0, "bf16": 5.0}, config=bert(), shape=TINYBERT_4, size=8, length=128),
        tinybert("tinybert-512", {"fp32": 2.2, "bf16": 4.5}, config=bert(), shape=TINYBERT_4, size=2, length=512),
        textbrewer("textbrewer", {"fp32": 1.15, "bf16": 3.3}, size=8, length=128),
        torchdistill(
            "torchdistill",
            {"fp32": 1.2, "bf16": 3.3},
            teacher=bert(**BERT_LARGE),
            config=bert(),
            size=8,
            length=128,
        ),
    )
}
