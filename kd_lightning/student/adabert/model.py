"""AdaBERT's student as a network: an architecture that was searched for the task, with a tokenizer (Chen et al. 2020, arXiv
2001.04246). The model is in `network.py`.

It reads the teacher's tokens. `architecture.json`, which may also be written by hand, and a picture of the cell lie beside its
weights.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from kd_lightning.encoder import INPUTS, Encoder, label_settings
from kd_lightning.student.adabert.architecture import Architecture, random_like, read
from kd_lightning.student.adabert.network import AdaBertConfig, AdaBertForSequenceClassification, TwoTexts
from kd_lightning.student.low_resource import classifier_spec
from kd_lightning.trim import Vocabulary, fitting
from kd_lightning.views import Batch, Needs, Readout, View


class AdaBert(nn.Module):
    """The model as a network, with its tokenizer. It shows logits and the states 0..K."""

    def __init__(self, model: AdaBertForSequenceClassification, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.spec = classifier_spec(model.config, tokenizer, layers=len(model.cells), hidden=model.config.channels)

    def forward(self, batch: Batch, needs: Needs) -> View:
        if needs.attention:
            raise ValueError("AdaBERT's student has no attention. Use method=adabert.")
        inputs = {name: batch[name] for name in INPUTS if name in batch}
        shown = self.model(**inputs, output_hidden_states=bool(needs.hidden))
        return View({k: shown.hidden_states[k] for k in needs.hidden}, readout=lambda rows: Readout(shown.logits[rows]))


Embeddings = Callable[[PreTrainedTokenizerBase, Encoder], Tensor]


def config_for(
    teacher: Encoder, *, channels: int, dropout: float, labels: Sequence[str], text: Sequence[str], architecture: Architecture
) -> AdaBertConfig:
    """A student of the teacher's tokens. labels: the class names; text: the task's columns of text."""
    if len(labels) < 2:
        raise ValueError(
            "method=adabert: its probes are classifiers, so it learns no regression. Choose another task or method."
        )
    return AdaBertConfig(
        vocab_size=len(teacher.tokenizer),
        max_position_embeddings=teacher.model.config.max_position_embeddings,
        channels=channels,
        dropout=dropout,
        pair=len(text) == 2,
        pad_token_id=teacher.tokenizer.pad_token_id,
        architecture=architecture.as_dict(),
        **label_settings(labels),
    )


@torch.no_grad()
def set_words(embeddings: TwoTexts, vectors: Tensor) -> None:
    """[V, C]; padding stays zero."""
    embeddings.words.weight.copy_(vectors)
    embeddings.words.weight[embeddings.words.padding_idx] = 0


def student(
    teacher: Encoder,
    *,
    path: str,
    inherit: bool,
    random_seed: int | None,
    embeddings: Embeddings,
    vocabulary: Vocabulary | None = None,
    **shape: Any,
) -> AdaBert:
    """The network of an architecture. path: its file, or the folder of a search. shape: see `config_for`.

    inherit: with the weights that the search left in that folder. random_seed: null, or a number: not that architecture but a
    random one of as many cells and weights, which follows from the number.
    """
    architecture, teacher = read(path), fitting(teacher, vocabulary)
    if inherit and (random_seed is not None or not Path(path).is_dir()):
        raise ValueError("student.inherit=true: only the folder of a search has weights, and of its own architecture alone.")
    if inherit:
        return AdaBert(AdaBertForSequenceClassification.from_pretrained(path, dtype=torch.float32), teacher.tokenizer)
    if random_seed is not None:
        architecture = random_like(architecture, random_seed)
    model = AdaBertForSequenceClassification(config_for(teacher, architecture=architecture, **shape))
    set_words(model.embeddings, embeddings(teacher.tokenizer, teacher))
    return AdaBert(model, teacher.tokenizer)
