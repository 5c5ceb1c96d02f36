"""IB-BERT: a bottleneck BERT whose queries, keys and values all read the width between the blocks (Sun et al. 2020,
arXiv 2004.02984, section 3).

MobileBERT's teacher is one, with wide blocks; so is the MobileBERT whose queries and keys have no bottleneck of their own. The
MobileBERT of transformers has all of it but these two linears, which it builds for the width within a block: it cannot run
such a configuration. A saved folder loads with `import kd_lightning` and plain transformers.

Deviation: transformers gives two of the LayerNorms (of the embeddings, and the last one within a block) PyTorch's epsilon;
here all have the configuration's, as in the release.
"""

from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    MobileBertConfig,
    MobileBertForMaskedLM,
    MobileBertForSequenceClassification,
    MobileBertModel,
)


class IBBertConfig(MobileBertConfig):
    """MobileBertConfig with the attention flags that lead to these networks and no others."""

    model_type = "ib_bert"

    key_query_shared_bottleneck: bool = False

    def __post_init__(self, **kwargs) -> None:
        super().__post_init__(**kwargs)
        if not self.use_bottleneck or self.use_bottleneck_attention or self.key_query_shared_bottleneck:
            raise ValueError(
                "ib_bert: its attention reads the blocks' input, so use_bottleneck is true and use_bottleneck_attention and "
                "key_query_shared_bottleneck are false. With other flags it is a MobileBERT: use transformers' own."
            )


class _FullWidthAttention:
    """Mixed into a model of transformers: its queries and keys read the width between the blocks."""

    config_class = IBBertConfig

    def __init__(self, config: IBBertConfig, *args, **kwargs) -> None:
        super().__init__(config, *args, **kwargs)
        for block in self.base_model.encoder.layer:
            attention = block.attention.self
            attention.query = nn.Linear(config.hidden_size, attention.all_head_size)
            attention.key = nn.Linear(config.hidden_size, attention.all_head_size)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = config.layer_norm_eps
        self.post_init()


class IBBertModel(_FullWidthAttention, MobileBertModel):
    """The encoder."""


class IBBertForMaskedLM(_FullWidthAttention, MobileBertForMaskedLM):
    """With the head of a masked LM."""


class IBBertForSequenceClassification(_FullWidthAttention, MobileBertForSequenceClassification):
    """With the head of a classifier."""


AutoConfig.register("ib_bert", IBBertConfig)
AutoModel.register(IBBertConfig, IBBertModel)
AutoModelForMaskedLM.register(IBBertConfig, IBBertForMaskedLM)
AutoModelForSequenceClassification.register(IBBertConfig, IBBertForSequenceClassification)
