"""Fused attention that also hands out queries and keys, through the attention interface of transformers.

It runs the library's own and appends (query · scaling, key) to the list that `forward` hands down as the keyword `capture`.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, sdpa_mask

from kd_lightning.dropout import dropout as dropped

ATTENTION = "sdpa_with_query_key"


def _attention(module, query, key, value, attention_mask, scaling, capture=None, dropout=0.0, **rest):
    plain = query.device.type == "cpu" and (value.dtype == torch.bfloat16 or dropout)
    scaled = query * scaling if plain or capture is not None else None
    if capture is not None:
        capture.append((scaled, key))
    if plain:
        return plain_attention(scaled, key, value, attention_mask, dropout), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **rest)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention from its formula: in bfloat16 on a CPU its backward is up to three times faster than the fused one's, which
    does not drop out either.

    query (scaled), key, value: [B, A, S, H]; mask [B, 1, S, S] or [B, 1, 1, S], true where a key is seen. A query that sees no
    key gets 0, as from the fused one: padding beyond the reach of a sliding window. Returns [B, S, A, H].
    """
    if mask is None:
        scores = query @ key.mT  # [B, A, S, S]
    else:  # the product begins with what hides a key, which costs less than to write it afterwards
        lowest = torch.finfo(query.dtype).min / 2  # finite, in bfloat16 too: a row of -inf has no softmax
        hidden = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, lowest)
        hidden = hidden.expand(-1, query.shape[1], -1, -1).flatten(0, 1)  # [B * A, 1 or S, S]
        scores = torch.baddbmm(hidden, query.flatten(0, 1), key.flatten(0, 1).mT).view(*query.shape[:-1], -1)
    weights = F.softmax(scores, dim=-1)
    output = (dropped(weights, dropout) if dropout else weights) @ value
    if mask is not None and not (seeing := mask.any(-1, keepdim=True)).all():
        output = output.masked_fill(~seeing, 0.0)
    return output.transpose(1, 2).contiguous()


def _mask(**given) -> Tensor | None:
    """transformers' own, which leaves the mask out where it finds nothing but ones in it. On a GPU it would wait for that, so
    that there the encoder leaves such a mask out beforehand. [B, 1, 1, S] where padding alone is hidden."""
    if (padding := given["attention_mask"]) is not None and padding.device.type != "cpu":
        given["allow_is_bidirectional_skip"] = False
    if given["mask_function"] is bidirectional_mask_function:  # what it hides is the same for every query
        given["q_length"] = 1
    return sdpa_mask(**given)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)
