"""Students made from a teacher: a new encoder, and the teacher's layers that initialise it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForMaskedLM, DistilBertConfig, DistilBertForMaskedLM, PreTrainedConfig, PreTrainedModel

from kd_lightning.encoder import Encoder, masked_lm
from kd_lightning.layer_maps import resolve_copy
from kd_lightning.pairing import longest
from kd_lightning.trim import Vocabulary, fitting

ALIASES = {  # what other types call a field of BERT's
    "intermediate_size": ("intermediate_size", "hidden_dim"),
    "hidden_dropout_prob": ("hidden_dropout_prob", "dropout", "embedding_dropout"),
    "attention_probs_dropout_prob": ("attention_probs_dropout_prob", "attention_dropout"),
    "hidden_act": ("hidden_act", "activation", "hidden_activation"),
}


def own_name(config: PreTrainedConfig, name: str) -> str:
    """What a type calls this field of BERT's; raises ValueError where it has none like it."""
    found = [alias for alias in ALIASES.get(name, (name,)) if hasattr(config, alias)]
    if not found:
        raise ValueError(f"student.{name}: the teacher's configuration ({config.model_type}) has no such field.")
    return config.attribute_map.get(found[0], found[0])


def smaller(
    teacher: Encoder,
    *,
    path: str | Path | None,
    copy_layers: str | Sequence[int] | None,
    vocabulary: Vocabulary | None = None,
    **shape: int,
) -> Encoder:
    """A masked LM of the teacher's own kind with other sizes (TinyBERT, section 4.1).

    path: where a student lies that goes on; None: a new one, of what follows. shape: fields of the teacher's configuration,
    e.g. num_hidden_layers=4, hidden_size=312, under BERT's names or its own. copy_layers: the teacher's layers (1..N, a name
    or a list) that initialise the student's, with the embeddings and the head; None: random start. vocabulary: which of the
    teacher's tokens it reads; None: all.
    """
    if path is not None:
        return masked_lm(path)
    teacher = fitting(teacher, vocabulary)
    depth = shape.get("num_hidden_layers", teacher.spec.layers)
    copied = None if copy_layers is None else resolve_copy(copy_layers, depth, teacher.spec.layers)
    config = _resized(teacher.model.config, copied or range(1, depth + 1), shape)
    if config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"student: hidden_size {config.hidden_size} does not divide by num_attention_heads {config.num_attention_heads}."
        )
    model = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
    student = Encoder(model, teacher.tokenizer)
    if copied is not None:
        _copy_all(student, teacher, copied)
    return student


def layers_of(
    teacher: Encoder, *, num_hidden_layers: int, copy_layers: str | Sequence[int] | None, vocabulary: Vocabulary | None = None
) -> Encoder:
    """A network of the teacher's kind, width and head, with fewer layers: some of the teacher's own (DistilBERT, section 3, but
    of a teacher that knows the task). copy_layers: which ones (1..N), a name or a list; None is uniform. vocabulary: as above.
    """
    teacher = fitting(teacher, vocabulary)
    chosen = resolve_copy(copy_layers or "uniform", num_hidden_layers, teacher.spec.layers)
    config = _resized(teacher.model.config, chosen, {"num_hidden_layers": num_hidden_layers})
    student = Encoder(type(teacher.model)(config), teacher.tokenizer, teacher.spec.trained_head)
    _copy_all(student, teacher, chosen)
    return student


def _resized(config: PreTrainedConfig, layers: Sequence[int], shape: Mapping[str, int]) -> PreTrainedConfig:
    """config with other sizes. What it lists layer by layer is that of these layers of its own (1..N)."""
    fields = config.to_dict() | {own_name(config, name): value for name, value in shape.items()}
    for name, value in fields.items():
        if isinstance(value, list) and len(value) == config.num_hidden_layers and max(layers) <= len(value):
            fields[name] = [value[layer - 1] for layer in layers]
    if fields.get("pooler_hidden_size") == config.hidden_size:  # DeBERTa keeps its own note of the width
        fields["pooler_hidden_size"] = fields[config.attribute_map.get("hidden_size", "hidden_size")]
    return type(config).from_dict(fields)


def _copy_all(student: Encoder, teacher: Encoder, layers: Sequence[int]) -> None:
    """Copy every tensor, blocks by `layers`, the rest by name."""
    if student.spec.hidden != teacher.spec.hidden:
        raise ValueError(
            f"student.copy_layers: the teacher's layers are {teacher.spec.hidden} wide and the student's "
            f"{student.spec.hidden}, so they cannot be copied. Set student.copy_layers=null or student.hidden_size="
            f"{teacher.spec.hidden}."
        )
    if getattr(teacher.model.config, "num_hidden_groups", 1) > 1:
        raise ValueError(
            "student.copy_layers: several of the teacher's layers share their weights by groups, so they cannot be copied one "
            "by one. Set student.copy_layers=null."
        )
    source, target = teacher.model.state_dict(), student.model.state_dict()
    origins = {name: name for name in target}
    if teacher._blocks:
        for number, layer in enumerate(layers):
            origins |= _block(f"{teacher.model.base_model_prefix}.{teacher._blocks}.", number, layer, source, target)
    for name, tensor in target.items():
        origin = origins[name]
        if origin not in source:
            continue
        if source[origin].shape != tensor.shape:
            raise ValueError(
                f"student.copy_layers: {name} is {list(tensor.shape)} in the student and {list(source[origin].shape)} in the "
                "teacher. Copying needs equal widths: set student.copy_layers=null or the teacher's sizes."
            )
        with torch.no_grad():
            tensor.copy_(source[origin])


def _block(blocks: str, number: int, layer: int, source: Mapping, target: Mapping) -> dict[str, str]:
    """Each tensor of the student's block (from 0) -> that of the teacher's layer (from 1); they have the same ones."""
    ours, theirs = f"{blocks}{number}.", f"{blocks}{layer - 1}."
    has, wants = ({n.removeprefix(p) for n in table if n.startswith(p)} for p, table in ((theirs, source), (ours, target)))
    if has != wants:
        raise ValueError(
            f"student.copy_layers: the teacher's layer {layer} and the student's layer {number + 1} differ in "
            f"{min(has ^ wants)}, as in some architectures the first layer is unlike the others. Give a list that begins with "
            "1, or student.copy_layers=null."
        )
    return {ours + name: theirs + name for name in wants}


LAYER_NAMES = {  # DistilBERT's -> BERT's, which RoBERTa and its kin have too
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
TABLES = {"word_embeddings", "position_embeddings", "token_type_embeddings"}
HEADS = (  # the linear and the norm of a masked LM's head, and its bias: BERT's, RoBERTa's, DistilBERT's
    ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
    ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
)


def distilbert(
    teacher: Encoder,
    *,
    path: str | Path | None,
    num_hidden_layers: int,
    copy_layers: str | Sequence[int] | None,
    copy_head: bool,
    fold_token_type: bool,
    freeze_position_embeddings: bool,
    vocabulary: Vocabulary | None = None,
) -> Encoder:
    """A DistilBERT of the teacher's width, without segment embeddings and pooler (Sanh et al. 2019, section 3).

    path: where a student lies that goes on; None: a new one, of what follows. copy_layers: the teacher's layers (1..N) that it
    starts from, a name or a list; None: random start ("random" in the paper's ablation). They can be copied from a BERT, a
    DistilBERT and a RoBERTa and its kin. copy_head: copy the transform of the MLM head too. fold_token_type: add the teacher's
    segment-0 vector, which DistilBERT has no table for, to every position, so that a full copy computes what the teacher
    computes. freeze_position_embeddings: they learn nothing, which is the effect in the release.
    vocabulary: which of the teacher's tokens it reads; None: all.

    Deviation: the release leaves the transform of the MLM head random (copy_head=false here).
    """
    if path is not None:
        return masked_lm(path)
    teacher = fitting(teacher, vocabulary)
    theirs = teacher.model.config
    names = ("vocab_size", "num_attention_heads", "hidden_size", "intermediate_size", "hidden_act")
    shape = {name: getattr(theirs, own_name(theirs, name)) for name in names}
    dropouts = (ALIASES["hidden_dropout_prob"], ALIASES["attention_probs_dropout_prob"])
    dropout = [next((getattr(theirs, name) for name in names if hasattr(theirs, name)), 0.1) for names in dropouts]
    config = DistilBertConfig(
        vocab_size=shape["vocab_size"],
        max_position_embeddings=longest(teacher.model) or teacher.tokenizer.model_max_length,
        n_layers=num_hidden_layers,
        n_heads=shape["num_attention_heads"],
        dim=shape["hidden_size"],
        hidden_dim=shape["intermediate_size"],
        dropout=dropout[0],
        attention_dropout=dropout[1],
        activation=shape["hidden_act"],
        pad_token_id=theirs.pad_token_id,
    )
    model = DistilBertForMaskedLM(config)
    if copy_layers is not None:
        chosen = resolve_copy(copy_layers, num_hidden_layers, teacher.spec.layers)
        with torch.no_grad():
            _copy_blocks(model, teacher, chosen, copy_head)
            segments = getattr(teacher.model.base_model.embeddings, "token_type_embeddings", None)
            if fold_token_type and segments is not None:
                model.distilbert.embeddings.position_embeddings.weight += segments.weight[0]
    model.distilbert.embeddings.position_embeddings.weight.requires_grad_(not freeze_position_embeddings)
    return Encoder(model, teacher.tokenizer)


def _copy_blocks(student: PreTrainedModel, teacher: Encoder, layers: Sequence[int], head: bool) -> None:
    """Copy the 102 tensors of the release (for six layers), and the four of the head's transform."""
    parts, theirs = dict(teacher.model.named_modules()), teacher.model.base_model
    tables = {name for name, m in getattr(theirs, "embeddings", nn.Module()).named_modules() if isinstance(m, nn.Embedding)}
    block = {name.rpartition(".")[0] for name, _ in teacher.blocks[0].named_parameters()} if teacher._blocks else set()
    names = next((kind for kind in (LAYER_NAMES, {name: name for name in LAYER_NAMES}) if set(kind.values()) == block), {})
    place = next((place for place in HEADS if place[0] in parts), None)
    if not names or not {"word_embeddings", "position_embeddings"} <= tables <= TABLES or place is None:
        raise ValueError(
            f"student.copy_layers: a DistilBERT takes over the layers of a BERT, DistilBERT or RoBERTa, and this teacher is a "
            f"{teacher.model.config.model_type}. Set student.copy_layers=null, or use method=tinybert, whose student is of its "
            "teacher's own kind."
        )

    def copy_module(ours: nn.Module, theirs: nn.Module) -> None:
        for name, tensor in ours.named_parameters():
            tensor.copy_(theirs.get_parameter(name))

    ours = student.distilbert
    for name in ("word_embeddings", "LayerNorm"):
        copy_module(ours.embeddings.get_submodule(name), theirs.embeddings.get_submodule(name))
    positions = ours.embeddings.position_embeddings.weight
    positions.copy_(theirs.embeddings.position_embeddings.weight[-len(positions) :])  # RoBERTa's first belong to padding
    for block, number in zip(ours.transformer.layer, layers, strict=True):
        for our_name, their_name in names.items():
            copy_module(block.get_submodule(our_name), teacher.blocks[number - 1].get_submodule(their_name))
    student.vocab_projector.bias.copy_(teacher.model.get_parameter(place[2]))
    if head:
        copy_module(student.vocab_transform, parts[place[0]])
        copy_module(student.vocab_layer_norm, parts[place[1]])
