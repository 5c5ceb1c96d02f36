"""MobileBERT and its teacher IB-BERT (Sun et al. 2020, arXiv 2004.02984), with new weights.

Both are as wide between their blocks; within a block the teacher is wider and the student narrower (section 3.1).
"""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForMaskedLM, MobileBertConfig

from kd_lightning.encoder import Encoder, masked_lm
from kd_lightning.pairing import read_config, read_tokenizer
from kd_lightning.student.ib_bert import IBBertConfig
from kd_lightning.trim import Vocabulary, fitting, reading


def ib_bert(*, path: str | Path, tokenizer: str | Path | None = None, max_length: int, **shape: bool | int | str) -> Encoder:
    """An IB-BERT masked LM of random start.

    path: a folder or hub name whose tokenizer it takes. tokenizer: where that lies, if not there. max_length: positions,
    special tokens included. shape: fields of `transformers.MobileBertConfig`. It is pre-trained without dropout, as
    `fresh.bert` is; whoever fine-tunes it finds 0.1.
    """
    reader = read_tokenizer(path) if tokenizer is None else read_tokenizer(tokenizer, read_config(path))
    reader.model_max_length = max_length
    read = {"vocab_size": len(reader), "pad_token_id": reader.pad_token_id, "max_position_embeddings": max_length}
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    return _without_dropout(Encoder(_new(IBBertConfig, **read, **dropout, **shape), reader))


def mobilebert(
    teacher: Encoder,
    *,
    path: str | Path | None,
    init_from_teacher: bool,
    vocabulary: Vocabulary | None = None,
    **shape: bool | int | str,
) -> Encoder:
    """A MobileBERT masked LM for this teacher, without dropout while it is taught (as in the release).

    path: where the student of an earlier stage lies; None: a new one, of the teacher's width and of its vocabulary, or
    the part of it that `vocabulary` chooses. shape: fields
    of `transformers.MobileBertConfig`, for the new one. Its queries and keys read the width between the blocks where neither
    of its two attention flags is set (`ib_bert.py`).
    init_from_teacher: copy what is outside the blocks from the teacher: embeddings and masked LM head, but not the embeddings'
    norm where the two have not the same kind (the release). A student from path gets only the head, and only if it has none.
    """
    if path is None:
        teacher = fitting(teacher, vocabulary)
        theirs = teacher.model.config
        shared = {name: getattr(theirs, name) for name in ("vocab_size", "pad_token_id", "max_position_embeddings")}
        both = shape.get("key_query_shared_bottleneck"), shape.get("use_bottleneck_attention")
        if all(both):
            raise ValueError(
                "student: use_bottleneck_attention and key_query_shared_bottleneck are both true, and the shared bottleneck "
                "would be built and never used. MobileBERT has the second alone, MobileBERT-tiny the first alone."
            )
        kind = MobileBertConfig if any(both) else IBBertConfig
        dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.1}
        student = Encoder(_new(kind, hidden_size=teacher.spec.hidden, **shared, **dropout, **shape), teacher.tokenizer)
    else:
        student = masked_lm(path)
        teacher = reading(teacher, student.tokenizer)
    if init_from_teacher and not (path and student.spec.trained_head):
        _copy_outside(student, teacher, prefix="cls." if path else "")
    return _without_dropout(student)


def _new(kind: type[MobileBertConfig], **shape: bool | int | str) -> nn.Module:
    heads, width = shape["num_attention_heads"], shape["intra_bottleneck_size"]
    if width % heads:
        raise ValueError(f"student: intra_bottleneck_size {width} does not divide by num_attention_heads {heads}.")
    return AutoModelForMaskedLM.from_config(kind(classifier_activation=False, **shape), dtype=torch.float32)


def _without_dropout(encoder: Encoder) -> Encoder:
    """The same encoder. Its configuration keeps the dropout, for whoever loads it."""
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return encoder


def _copy_outside(student: Encoder, teacher: Encoder, prefix: str) -> None:
    """Copy what is outside the blocks and has a name that begins with prefix."""
    source, kinds = teacher.model.state_dict(), [e.model.config.to_dict().get("normalization_type") for e in (student, teacher)]
    for name, tensor in student.model.named_parameters():  # the word table once, though it is the head's too
        if ".encoder." in name or not name.startswith(prefix) or (".embeddings.LayerNorm." in name and kinds[0] != kinds[1]):
            continue
        if name not in source or source[name].shape != tensor.shape:
            found = list(source[name].shape) if name in source else f"not there (it is a {teacher.model.config.model_type})"
            raise ValueError(
                f"student.init_from_teacher: {name} is {list(tensor.shape)} in the student and in the teacher {found}. Give "
                "the student the teacher's embedding_size, or set student.init_from_teacher=false."
            )
        with torch.no_grad():
            tensor.copy_(source[name])
