"""A bag of words: the mean of its word vectors (the MLP student of Wasserblat et al. 2020)."""

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from kd_lightning.student.low_resource_model import LowResourceConfig, LowResourceModel


class BowConfig(LowResourceConfig):
    model_type = "kd_bow"


class Mean(nn.Module):
    """The mean of the word vectors, [B, E]."""

    def __init__(self, config: BowConfig) -> None:
        super().__init__()
        self.width = config.channels * config.embedding_size

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return x.sum(1) / lengths[:, None]


class BowForSequenceClassification(LowResourceModel):
    config_class = BowConfig
    body_class = Mean


AutoConfig.register(BowConfig.model_type, BowConfig)
AutoModel.register(BowConfig, BowForSequenceClassification)
AutoModelForSequenceClassification.register(BowConfig, BowForSequenceClassification)
