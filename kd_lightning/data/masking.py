"""Which positions a masked LM has to predict (DistilBERT's release, `Distiller.prepare_batch_mlm`)."""

import math

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


class Masking:
    """Draws ⌈share · real tokens⌉ positions of a batch and hides them: 80 % [MASK], 10 % kept, 10 % a random token.

    counts: [V] how often each token occurs in the corpus. A position is drawn, without replacement over the whole batch,
    with weight max(count, 1)^-smoothing: 0.7 as released (rare tokens often), 0 for uniform. Special tokens are never
    drawn. share 0 hides nothing.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, counts: Tensor, *, share: float, smoothing: float) -> None:
        if tokenizer.mask_token_id is None:
            raise ValueError("tokenizer: it has no mask token, so it cannot serve a masked LM.")
        if not 0 <= share < 1:
            raise ValueError(f"data.mask_share: {share} is not a share of tokens; give 0 (nothing hidden) up to below 1.")
        self.mask_id, self.vocabulary, self.share = tokenizer.mask_token_id, len(counts), share
        self.weights = counts.clamp(min=1).double().pow(-smoothing)
        self.weights[torch.tensor(tokenizer.all_special_ids)] = 0

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """input_ids, attention_mask: [B, S]. Returns the hidden input_ids, `rows` [N] (indices into [B * S]) and
        `labels` [N], the ids that stood there."""
        flat = input_ids.flatten()
        weights = self.weights[flat] * attention_mask.flatten()
        wanted = min(math.ceil(self.share * int(attention_mask.sum())), int((weights > 0).sum()))
        rows = torch.multinomial(weights, wanted, generator=generator).sort().values if wanted else flat.new_zeros(0)
        labels = flat[rows]
        draw = torch.rand(wanted, generator=generator)
        random = torch.randint(self.vocabulary, (wanted,), generator=generator)
        shown = torch.where(draw < 0.8, self.mask_id, torch.where(draw < 0.9, labels, random))
        return {"input_ids": flat.scatter(0, rows, shown).view_as(input_ids), "rows": rows, "labels": labels}
