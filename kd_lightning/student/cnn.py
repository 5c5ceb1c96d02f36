"""Convolutions over word vectors, and their maxima over the text (Kim 2014, arXiv 1408.5882)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from kd_lightning.student.low_resource_model import LowResourceConfig, LowResourceModel


class CNNConfig(LowResourceConfig):
    """kernel_sizes: how many words a filter sees; filters: how many there are of each size."""

    model_type = "kd_cnn"
    kernel_sizes: list[int] = (3, 4, 5)
    filters: int = 100


class CNN(nn.Module):
    """[B, filters · sizes]. A filter of size k also sees the text's edges, with up to k - 1 zeros outside it (wide).

    Deviation: d-bert, the code of Tang et al., takes the maximum over the padding of a batch too; here what lies outside a
    text does not count, so that a text's features do not depend on its batch.
    """

    def __init__(self, config: CNNConfig) -> None:
        super().__init__()
        width = config.channels * config.embedding_size
        self.convolutions = nn.ModuleList(nn.Conv1d(width, config.filters, k, padding=k - 1) for k in config.kernel_sizes)
        self.width = config.filters * len(config.kernel_sizes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        found = []
        for convolution in self.convolutions:
            maps = F.relu(convolution(x.mT))  # [B, filters, S + k - 1]
            outside = torch.arange(maps.shape[-1], device=x.device) >= lengths[:, None] + convolution.padding[0]
            found.append(maps.masked_fill(outside[:, None], 0).amax(-1))
        return torch.cat(found, dim=-1)


class CNNForSequenceClassification(LowResourceModel):
    config_class = CNNConfig
    body_class = CNN


AutoConfig.register(CNNConfig.model_type, CNNConfig)
AutoModel.register(CNNConfig, CNNForSequenceClassification)
AutoModelForSequenceClassification.register(CNNConfig, CNNForSequenceClassification)
