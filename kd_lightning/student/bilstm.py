"""Bidirectional LSTM (Tang et al. 2019, section 3.1; Wasserblat et al. 2020)."""

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from kd_lightning.student.low_resource_model import LowResourceConfig, LowResourceModel


class BiLSTMConfig(LowResourceConfig):
    """hidden_size: the width of one direction."""

    model_type = "kd_bilstm"
    num_hidden_layers: int = 1
    hidden_size: int = 150


class BiLSTM(nn.Module):
    """The last states of both directions, [B, 2H].

    The backward direction is an LSTM that reads each text reversed within its own length, so that nothing is packed and
    padding is never in front of a text: the states are those of torch's bidirectional LSTM on packed sequences.
    """

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__()
        size = config.hidden_size
        widths = [config.channels * config.embedding_size] + [2 * size] * (config.num_hidden_layers - 1)
        self.width = 2 * size
        self.forward_layers = nn.ModuleList(nn.LSTM(width, size, batch_first=True) for width in widths)
        self.backward_layers = nn.ModuleList(nn.LSTM(width, size, batch_first=True) for width in widths)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        mirrored = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)[..., None]  # [B, S, 1]
        last = (lengths - 1)[:, None, None]
        left = right = None
        for ahead, back in zip(self.forward_layers, self.backward_layers, strict=True):
            if left is not None:
                x = torch.cat([left, right.gather(1, mirrored.expand_as(right))], dim=-1)
            left, right = ahead(x)[0], back(x.gather(1, mirrored.expand_as(x)))[0]  # [B, S, H]
        ends = torch.stack([left, right], dim=1).gather(2, last[:, None].expand(-1, 2, 1, left.shape[-1]))
        return ends.flatten(1)


class BiLSTMForSequenceClassification(LowResourceModel):
    config_class = BiLSTMConfig
    body_class = BiLSTM


AutoConfig.register(BiLSTMConfig.model_type, BiLSTMConfig)
AutoModel.register(BiLSTMConfig, BiLSTMForSequenceClassification)
AutoModelForSequenceClassification.register(BiLSTMConfig, BiLSTMForSequenceClassification)
