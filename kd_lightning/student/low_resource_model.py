"""Word vectors, one shallow body, a small head: the models of `low_resource.py`, in plain transformers.

This file and the bodies import nothing else of this package: they go with a model to the hub (`run/portable.py`).
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

UNIFORM = 0.25  # word vectors start uniform in -UNIFORM..UNIFORM (Kim 2014, section 3.1)


class LowResourceConfig(PreTrainedConfig):
    """channels: 1 for trainable word vectors; 2 for these beside a frozen copy of what they started from (Kim's multichannel).
    head_size: width of a hidden layer in the head, 0 for none. siamese: two texts are read one by one by the same body,
    and the head sees [u, v, |u - v|, u · v] (Tang et al. 2019, section 3.1). word_dropout: share of the tokens that are read
    as the unknown one in training."""

    vocab_size: int = 10000
    embedding_size: int = 50
    channels: int = 1
    head_size: int = 0
    dropout: float = 0.1
    word_dropout: float = 0.0
    siamese: bool = False
    pad_token_id: int | None = 0
    unk_token_id: int = 1


class LowResourceModel(PreTrainedModel):
    """[B, S] token ids -> [B, C] logits. A body is made as body_class(config), has a `width`, and maps word vectors
    [B, S, E], zero at padding, and lengths [B], 1 or more, to features [B, width]."""

    body_class: type[nn.Module]

    def __init__(self, config: LowResourceConfig) -> None:
        super().__init__(config)
        tables = [nn.Embedding(config.vocab_size, config.embedding_size, config.pad_token_id) for _ in range(config.channels)]
        self.embeddings = nn.ModuleList(tables)
        for frozen in tables[1:]:
            frozen.requires_grad_(False)
        self.body = self.body_class(config)
        width = self.body.width * (4 if config.siamese else 1)
        hidden = [nn.Linear(width, config.head_size), nn.ReLU()] if config.head_size else []
        last = nn.Linear(config.head_size or width, config.num_labels)
        self.classifier = nn.Sequential(*hidden, nn.Dropout(config.dropout), last)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.uniform_(module.weight, -UNIFORM, UNIFORM)
            init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, (nn.Linear, nn.LSTM, nn.Conv1d)):
            module.reset_parameters()

    @torch.no_grad()
    def set_vectors(self, vectors: Tensor) -> None:
        """[V, E], into every channel; padding stays zero."""
        for table in self.embeddings:
            table.weight.copy_(vectors)
            table.weight[table.padding_idx] = 0

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **_,
    ) -> SequenceClassifierOutput:
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if self.training and self.config.word_dropout:
            dropped = (torch.rand(input_ids.shape, device=input_ids.device) < self.config.word_dropout) & real.bool()
            input_ids = input_ids.masked_fill(dropped, self.config.unk_token_id)
        if self.config.siamese:
            second = torch.zeros_like(real) if token_type_ids is None else token_type_ids * real
            u, v = self._features(input_ids, real - second), self._features(*_moved_to_front(input_ids, second))
            features = torch.cat([u, v, (u - v).abs(), u * v], dim=-1)
        else:
            features = self._features(input_ids, real)
        logits = self.classifier(features)
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _features(self, input_ids: Tensor, real: Tensor) -> Tensor:
        """real [B, S]: 1 at the text's tokens, which come first. A text without tokens is read as one token of padding."""
        vectors = torch.cat([table(input_ids) for table in self.embeddings], dim=-1) * real[..., None]
        return self.body(vectors, real.sum(1).clamp(min=1))


def _moved_to_front(ids: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """ids with the chosen tokens of each text first, in their order; and where these are now, [B, S] each."""
    place = torch.arange(ids.shape[1], device=ids.device)
    order = torch.where(chosen.bool(), place, place + ids.shape[1]).argsort(dim=1)
    return ids.gather(1, order), chosen.gather(1, order)
