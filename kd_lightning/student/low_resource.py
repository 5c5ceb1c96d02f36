"""Students hundreds of times smaller than BERT: word vectors, one shallow body, a small head.

The models are in `low_resource_model.py` and their bodies in `bilstm.py`, `cnn.py` and `bow.py` (Wasserblat et al. 2020; Tang
et al. 2019, arXiv 1903.12136; Kim 2014, arXiv 1408.5882). Each is a `PreTrainedModel` of its own type, which transformers' Auto
classes know as soon as `kd_lightning` is imported.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedTokenizerBase

from kd_lightning.encoder import INPUTS, Encoder, label_settings, vocabulary_id
from kd_lightning.student.low_resource_model import LowResourceConfig, LowResourceModel
from kd_lightning.student.vocabulary import segmented
from kd_lightning.views import Batch, Needs, Readout, Spec, View


def classifier_spec(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, *, layers: int, hidden: int) -> Spec:
    """The spec of a classifier without attention."""
    return Spec(
        layers=layers,
        hidden=hidden,
        heads=0,
        vocabulary=config.vocab_size,
        vocabulary_id=vocabulary_id(tokenizer),
        labels=tuple(config.id2label[i] for i in range(config.num_labels)),
    )


class LowResource(nn.Module):
    """One of these models as a network, with its tokenizer. It shows logits and nothing else."""

    def __init__(self, model: LowResourceModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.spec = classifier_spec(model.config, tokenizer, layers=0, hidden=model.body.width)

    def forward(self, batch: Batch, needs: Needs) -> View:
        if needs.hidden or needs.attention:
            raise ValueError(
                f"{type(self.model).__name__} has no layers like the teacher's: it can be taught by logits only. Use "
                "method=bilstm, cnn or bow, or set the weights of the other terms to 0."
            )
        inputs = {name: batch[name] for name in INPUTS if name in batch}
        logits = self.model(**inputs).logits
        return View(readout=lambda rows: Readout(logits[rows]))


def student(
    teacher: Encoder,
    *,
    architecture: Callable[..., LowResourceConfig],
    vocabulary: Callable[[Encoder], PreTrainedTokenizerBase],
    embeddings: Callable[[PreTrainedTokenizerBase, Encoder], Tensor],
    labels: Sequence[str],
    text: Sequence[str],
) -> LowResource:
    """A student that starts at random but for its word vectors.

    vocabulary: teacher -> tokenizer. embeddings: tokenizer, teacher -> vectors [V, E]. labels: the class names, one for a
    regression. text: the task's columns of text; two make it siamese.
    """
    tokenizer = segmented(vocabulary(teacher))
    vectors = embeddings(tokenizer, teacher)
    config = architecture(
        vocab_size=len(vectors),
        embedding_size=vectors.shape[1],
        siamese=len(text) == 2,
        pad_token_id=tokenizer.pad_token_id,
        unk_token_id=tokenizer.unk_token_id,
        **label_settings(labels),
    )
    model = AutoModelForSequenceClassification.from_config(config)
    model.set_vectors(vectors)
    return LowResource(model, tokenizer)
