"""Students made from a teacher: a new encoder, and the teacher's layers that initialise it."""

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForMaskedLM, DistilBertConfig, DistilBertForMaskedLM, PreTrainedModel

from kd_lightning.encoder import Encoder, masked_lm
from kd_lightning.layer_maps import resolve_copy


def smaller(teacher: Encoder, *, path: str | Path | None, copy_layers: str | Sequence[int] | None, **shape: int) -> Encoder:
    """A masked LM of the teacher's own kind with other sizes (TinyBERT, section 4.1).

    path: a folder or hub name of a student that is there already; None: a new one, made as follows. shape: fields of the
    teacher's configuration, e.g. num_hidden_layers=4, hidden_size=312. copy_layers: the teacher's layers (1..N, a name or a
    list) that initialise the student's, with the embeddings and the head; None: random start.
    """
    if path is not None:
        return masked_lm(path)
    config = copy.deepcopy(teacher.model.config)
    for name, value in shape.items():
        if not hasattr(config, name):
            raise ValueError(f"student.{name}: the teacher's configuration ({config.model_type}) has no such field.")
        setattr(config, name, value)
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"student: hidden_size {config.hidden_size} does not divide by num_attention_heads {config.num_attention_heads}."
        )
    model = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
    student = Encoder(model, teacher.tokenizer)
    if copy_layers is not None:
        _copy_all(student, teacher, resolve_copy(copy_layers, student.spec.layers, teacher.spec.layers))
    return student


def _copy_all(student: Encoder, teacher: Encoder, layers: Sequence[int]) -> None:
    """Copy every tensor, blocks by `layers`, the rest by name."""
    if student.spec.hidden != teacher.spec.hidden:
        raise ValueError(
            f"student.copy_layers: the teacher's layers are {teacher.spec.hidden} wide and the student's "
            f"{student.spec.hidden}, so they cannot be copied. Set student.copy_layers=null or student.hidden_size="
            f"{teacher.spec.hidden}."
        )
    source, target = teacher.model.state_dict(), student.model.state_dict()
    blocks = f"{teacher.model.base_model_prefix}.{teacher._blocks}."
    for name, tensor in target.items():
        origin = name
        if name.startswith(blocks):
            number, rest = name.removeprefix(blocks).split(".", 1)
            origin = f"{blocks}{layers[int(number)] - 1}.{rest}"
        if origin not in source:
            continue
        if source[origin].shape != tensor.shape:
            raise ValueError(
                f"student.copy_layers: {name} is {list(tensor.shape)} in the student and {list(source[origin].shape)} in the "
                "teacher. Copying needs equal widths: set student.copy_layers=null or the teacher's sizes."
            )
        with torch.no_grad():
            tensor.copy_(source[origin])


LAYER_NAMES = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
HEAD_NAMES = {
    "vocab_transform": "cls.predictions.transform.dense",
    "vocab_layer_norm": "cls.predictions.transform.LayerNorm",
}


def distilbert(
    teacher: Encoder,
    *,
    path: str | Path | None,
    num_hidden_layers: int,
    copy_layers: str | Sequence[int] | None,
    copy_head: bool,
    fold_token_type: bool,
    freeze_position_embeddings: bool,
) -> Encoder:
    """A DistilBERT of the teacher's width, without segment embeddings and pooler (Sanh et al. 2019, section 3).

    path: a folder or hub name of a student that is there already; None: a new one, made as follows. copy_layers: the BERT
    layers (1..N) that it starts from, a name or a list; None: random start ("random" in the paper's ablation). copy_head: copy
    the transform of the MLM head too. fold_token_type: add the teacher's segment-0 vector, which DistilBERT has no table for,
    to every position, so that a full copy computes what the teacher computes. freeze_position_embeddings: they learn nothing,
    which is the effect in the release.

    Deviation: the release leaves the transform of the MLM head random (copy_head=false here).
    """
    if path is not None:
        return masked_lm(path)
    theirs = teacher.model.config
    if theirs.model_type != "bert":
        raise ValueError(
            f"student: a DistilBERT starts from a BERT, and this teacher is a {theirs.model_type}. Use "
            "student=smaller, with its sizes."
        )
    config = DistilBertConfig(
        vocab_size=theirs.vocab_size,
        max_position_embeddings=theirs.max_position_embeddings,
        n_layers=num_hidden_layers,
        n_heads=theirs.num_attention_heads,
        dim=theirs.hidden_size,
        hidden_dim=theirs.intermediate_size,
        dropout=theirs.hidden_dropout_prob,
        attention_dropout=theirs.attention_probs_dropout_prob,
        activation=theirs.hidden_act,
        pad_token_id=theirs.pad_token_id,
    )
    model = DistilBertForMaskedLM(config)
    if copy_layers is not None:
        chosen = resolve_copy(copy_layers, num_hidden_layers, theirs.num_hidden_layers)
        with torch.no_grad():
            _copy_bert(model, teacher.model, chosen, copy_head)
            if fold_token_type:
                segments = teacher.model.bert.embeddings.token_type_embeddings.weight
                model.distilbert.embeddings.position_embeddings.weight += segments[0]
    model.distilbert.embeddings.position_embeddings.weight.requires_grad_(not freeze_position_embeddings)
    return Encoder(model, teacher.tokenizer)


def _copy_bert(student: PreTrainedModel, teacher: PreTrainedModel, layers: Sequence[int], head: bool) -> None:
    """Copy the 102 tensors of the release (for six layers), and the four of the head's transform."""

    def copy_module(ours: nn.Module, theirs: nn.Module) -> None:
        for name, tensor in ours.named_parameters():
            tensor.copy_(theirs.get_parameter(name))

    ours, theirs = student.distilbert, teacher.bert
    for name in ("word_embeddings", "position_embeddings", "LayerNorm"):
        copy_module(ours.embeddings.get_submodule(name), theirs.embeddings.get_submodule(name))
    for block, number in zip(ours.transformer.layer, layers, strict=True):
        for our_name, their_name in LAYER_NAMES.items():
            copy_module(block.get_submodule(our_name), theirs.encoder.layer[number - 1].get_submodule(their_name))
    student.vocab_projector.bias.copy_(teacher.cls.predictions.bias)
    if head:
        for our_name, their_name in HEAD_NAMES.items():
            copy_module(student.get_submodule(our_name), teacher.get_submodule(their_name))
