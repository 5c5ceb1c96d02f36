"""AdaBERT's student in plain transformers: word vectors and convolutional cells (Chen et al. 2020, arXiv 2001.04246).

It is a `PreTrainedModel` of its own type, which transformers' Auto classes know as soon as `kd_lightning` is imported. This
file and those beside it that it reads import nothing else of this package: they go with a model to the hub (`run/portable.py`).
"""

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

from kd_lightning.student.adabert.architecture import from_dict, picture
from kd_lightning.student.adabert.cell import Cell, Everywhere, Places, operation, run_cells


class AdaBertConfig(PreTrainedConfig):
    """channels: the width of everything. architecture: `Architecture.as_dict`. pair: two texts, told apart by their
    token_type_ids; each goes into the first cell on its own."""

    model_type = "kd_adabert"
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    channels: int = 128
    dropout: float = 0.1
    pair: bool = False
    pad_token_id: int | None = 0
    architecture: dict[str, Any] | None = None


class TwoTexts(nn.Module):
    """The inputs of the first cell: LayerNorm(word + position) for each text, whose positions start at 0, and zero where the
    other text is. A single text is both inputs.

    Deviation: the tables have the student's width from the start; EasyTransfer learns the teacher's tables times a matrix
    during the search and multiplies them afterwards.
    """

    def __init__(self, config: AdaBertConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.channels, config.pad_token_id)
        self.positions = nn.Embedding(config.max_position_embeddings, config.channels)
        self.norm, self.dropout = nn.LayerNorm(config.channels), nn.Dropout(config.dropout)
        self.pair = config.pair

    def forward(self, input_ids: Tensor, second: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """input_ids, second [B, S]; second is 1 where the second text is. Returns two [N, C]."""
        second = second.bool() & self.pair
        position = torch.arange(second.shape[1], device=second.device).expand_as(second)
        start = second.int().argmax(1, keepdim=True)
        position = torch.where(second, position - start, position).flatten()[places.index]
        x = self.words(input_ids.flatten()[places.index]) + self.positions(position)
        x = self.dropout(self.norm(x))
        if not self.pair:
            return x, x
        second = second.flatten()[places.index][:, None].to(x.dtype)
        return x * (1 - second), x * second


class AdaBertForSequenceClassification(PreTrainedModel):
    """[B, S] token ids -> [B, C] logits: the classifier reads tanh of a learned average of the states 0..K, each averaged over
    its text."""

    config_class = AdaBertConfig

    def __init__(self, config: AdaBertConfig) -> None:
        super().__init__(config)
        architecture = from_dict(config.architecture, "config.json: architecture")
        make = partial(operation, channels=config.channels, norm=partial(nn.BatchNorm1d, config.channels))
        self.embeddings = TwoTexts(config)
        self.cells = nn.ModuleList(
            Cell({edge: make(name) for edge, name in architecture.edges.items()}) for _ in range(architecture.cells)
        )
        self.blend = nn.Parameter(torch.zeros(architecture.cells + 1))
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.channels, config.num_labels)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, 0.0, 0.02)
            if module.padding_idx is not None:
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.LayerNorm)):
            module.reset_parameters()
        elif isinstance(module, Cell):
            init.normal_(module.blend, 0.0, 0.01)
        elif isinstance(module, AdaBertForSequenceClassification):
            init.zeros_(module.blend)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        **_,
    ) -> SequenceClassifierOutput:
        kind = Everywhere if torch.compiler.is_exporting() else Places
        places = kind(torch.ones_like(input_ids) if attention_mask is None else attention_mask)
        second = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        steps = [lambda name, x, cell=cell: cell.edges[name](x, places) for cell in self.cells]
        states = run_cells(steps, self.cells, *self.embeddings(input_ids, second, places))
        logits = self.classifier(self.dropout(represent([places.mean(x) for x in states], self.blend)))
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        hidden = tuple(places.texts(x) for x in states) if output_hidden_states else None
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=hidden)

    def save_pretrained(self, save_directory: str | os.PathLike, **more) -> None:
        super().save_pretrained(save_directory, **more)
        architecture, folder = self.config.architecture, Path(save_directory)
        (folder / "architecture.json").write_text(json.dumps(architecture, indent=1) + "\n", encoding="utf-8")
        (folder / "architecture.svg").write_text(picture(from_dict(architecture, "config.json")), encoding="utf-8")


def represent(means: Sequence[Tensor], blend: Tensor) -> Tensor:
    """tanh of the average of states [B, C] by softmax(blend); what the classifier reads."""
    return torch.einsum("kbc,k->bc", torch.stack(list(means)), blend.softmax(0)).tanh()


AutoConfig.register(AdaBertConfig.model_type, AdaBertConfig)
AutoModel.register(AdaBertConfig, AdaBertForSequenceClassification)
AutoModelForSequenceClassification.register(AdaBertConfig, AdaBertForSequenceClassification)
