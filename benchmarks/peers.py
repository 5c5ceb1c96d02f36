"""Straightforward implementations of the same steps: what the releases do, written plainly on Hugging Face models.

Each is a function of (student, teacher, batch) and gives the loss. They have eager attention, whole [B, S, V] logits or
[B, A, S, S] scores, and every hidden state of both networks, in float32. TinyBERT's peer also has the release's own
arithmetic: normalisation and activation spelled out in elementary operations.
"""

import tempfile
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel
from transformers.activations import GELUActivation
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from kd_lightning.views import Batch

SCORES = "eager_that_returns_scores"


def _eager_scores(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
    """Eager attention that returns its masked scores before the softmax, as TinyBERT's own BERT does."""
    scores = query @ key.mT * scaling  # [B, A, S, S]
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.dropout(F.softmax(scores, dim=-1), dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), scores


AttentionInterface.register(SCORES, _eager_scores)
AttentionMaskInterface.register(SCORES, ALL_MASK_ATTENTION_FUNCTIONS["eager"])


class _LayerNorm(nn.Module):
    """Layer normalisation in elementary operations, as TinyBERT's release has it where apex is not installed."""

    def __init__(self, fused: nn.LayerNorm):
        super().__init__()
        self.weight, self.bias, self.eps = fused.weight, fused.bias, fused.eps

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.pow(2).mean(-1, keepdim=True)
        return self.weight * (centred / torch.sqrt(variance + self.eps)) + self.bias


def spell_out(model: nn.Module) -> None:
    """Replaces the fused layer normalisations and GELUs of a model by elementary operations, in place."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.LayerNorm):
                setattr(module, name, _LayerNorm(child))
            elif isinstance(child, GELUActivation):
                setattr(module, name, GELUActivation(use_gelu_python=True))


def distilbert(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    batch: Batch,
    *,
    temperature: float,
    soft: float,
    mlm: float,
    cosine: float,
    masked_only: bool,
) -> Tensor:
    """`Distiller.step` of DistilBERT's release. batch: input_ids, attention_mask and lm_labels [B, S], -100 where
    nothing is to be predicted."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ours = student(**inputs, output_hidden_states=True)
    with torch.no_grad():
        theirs = teacher(**inputs, output_hidden_states=True)
    chosen = batch["lm_labels"] > -1 if masked_only else batch["attention_mask"].bool()
    mask = chosen.unsqueeze(-1).expand_as(ours.logits)  # [B, S, V]
    width = ours.logits.shape[-1]
    s_logits = torch.masked_select(ours.logits, mask).view(-1, width)  # [N, V]
    t_logits = torch.masked_select(theirs.logits, mask).view(-1, width)
    soft_loss = nn.KLDivLoss(reduction="batchmean")(
        F.log_softmax(s_logits / temperature, dim=-1), F.softmax(t_logits / temperature, dim=-1)
    )
    mlm_loss = nn.CrossEntropyLoss(ignore_index=-100)(ours.logits.view(-1, width), batch["lm_labels"].view(-1))
    s_hidden, t_hidden = ours.hidden_states[-1], theirs.hidden_states[-1]
    mask = batch["attention_mask"].bool().unsqueeze(-1).expand_as(s_hidden)  # [B, S, D]
    s_rows = torch.masked_select(s_hidden, mask).view(-1, s_hidden.shape[-1])
    t_rows = torch.masked_select(t_hidden, mask).view(-1, t_hidden.shape[-1])
    cosine_loss = nn.CosineEmbeddingLoss(reduction="mean")(s_rows, t_rows, s_rows.new_ones(len(s_rows)))
    return soft * temperature**2 * soft_loss + mlm * mlm_loss + cosine * cosine_loss


def tinybert(
    student: PreTrainedModel, teacher: PreTrainedModel, fit_dense: nn.Linear, batch: Batch, *, teacher_graph: bool
) -> Tensor:
    """The step of TinyBERT's `general_distill.py`, student and teacher being bare encoders.

    teacher_graph: build the teacher's graph and detach it afterwards, as the release does; else no graph at all.
    """
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ours = student(**inputs, output_hidden_states=True, output_attentions=True)
    with nullcontext() if teacher_graph else torch.no_grad():
        theirs = teacher(**inputs, output_hidden_states=True, output_attentions=True)
    t_hidden = [hidden.detach() for hidden in theirs.hidden_states]
    t_scores = [scores.detach() for scores in theirs.attentions]
    every = len(t_scores) // len(ours.attentions)
    loss = 0.0
    for layer, s in enumerate(ours.attentions):
        t = t_scores[layer * every + every - 1]
        s = torch.where(s <= -1e2, torch.zeros_like(s), s)
        t = torch.where(t <= -1e2, torch.zeros_like(t), t)
        loss = loss + nn.MSELoss()(s, t)
    for layer, hidden in enumerate(ours.hidden_states):
        loss = loss + nn.MSELoss()(fit_dense(hidden), t_hidden[layer * every])
    return loss


def textbrewer(
    student: PreTrainedModel, teacher: PreTrainedModel, temperature: float, device: str
) -> tuple[Callable[[Batch], Tensor], nn.ModuleList]:
    """TextBrewer's `GeneralDistiller.train_on_batch` as a function of the batch, and its projections.

    Its `hidden_mse` with a linear for each student layer, its `attention_mse` on the scores that the adaptor hands it,
    both over real positions (inputs_mask), and its soft cross-entropy on the logits. No shim is needed: the training
    loop around `train_on_batch`, with its logging and its checkpoints, is left out.
    """
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    def adaptor(batch: Batch, outputs) -> dict:
        return {
            "logits": outputs.logits,
            "hidden": outputs.hidden_states,
            "attention": outputs.attentions,
            "inputs_mask": batch["attention_mask"],
        }

    s, t = student.config, teacher.config
    every = t.num_hidden_layers // s.num_hidden_layers
    hidden = [
        {
            "layer_T": layer * every,
            "layer_S": layer,
            "feature": "hidden",
            "loss": "hidden_mse",
            "weight": 1,
            "proj": ["linear", s.hidden_size, t.hidden_size],
        }
        for layer in range(s.num_hidden_layers + 1)
    ]
    attention = [
        {
            "layer_T": layer * every + every - 1,
            "layer_S": layer,
            "feature": "attention",
            "loss": "attention_mse",
            "weight": 1,
        }
        for layer in range(s.num_hidden_layers)
    ]
    distiller = GeneralDistiller(
        train_config=TrainingConfig(log_dir=None, output_dir=tempfile.gettempdir(), device=device),
        distill_config=DistillationConfig(
            temperature=temperature, kd_loss_weight=1, hard_label_weight=0, intermediate_matches=hidden + attention
        ),
        model_T=teacher,
        model_S=student,
        adaptor_T=adaptor,
        adaptor_S=adaptor,
    )
    teacher.eval()
    shown = {"output_hidden_states": True, "output_attentions": True}

    def loss(batch: Batch) -> Tensor:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return distiller.train_on_batch(inputs, shown)[0]

    return loss, nn.ModuleList(projection for projection in distiller.projs if projection is not None)


def torchdistill(
    student: PreTrainedModel, teacher: PreTrainedModel, temperature: float, alpha: float
) -> Callable[[Batch], Tensor]:
    """A training step's loss in torchdistill's example for GLUE: alpha · CE(labels) + (1 - alpha) · T² · KL of the logits.

    Kept of it: both networks run in full, as transformers makes them by default, with the labels among their inputs, from
    which each computes a loss of its own that nobody reads; the teacher runs in every step, in eval mode and without a graph;
    a forward hook on each classifier keeps the logits that the loss reads; a batch is padded to its longest row.
    Left out: the loader, whose random rows of any length share a batch; the learning rate's schedule, the log, and Accelerate.
    Deviation: that example hands its loss no labels, so that its KDLoss is the KL alone and without T²; here it gets them, as
    torchdistill documents the loss. Two classes' cross-entropy takes no time.
    """
    kept: dict[str, Tensor] = {}
    for who, model in (("student", student), ("teacher", teacher.eval())):
        model.classifier.register_forward_hook(lambda module, inputs, output, who=who: kept.update({who: output}))

    def loss(batch: Batch) -> Tensor:
        with torch.no_grad():
            teacher(**batch)
        student(**batch)
        soft = nn.KLDivLoss(reduction="batchmean")(
            F.log_softmax(kept["student"] / temperature, dim=1), F.softmax(kept["teacher"] / temperature, dim=1)
        )
        hard = nn.CrossEntropyLoss()(kept["student"], batch["labels"])
        return alpha * hard + (1 - alpha) * temperature**2 * soft

    return loss
