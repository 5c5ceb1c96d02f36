"""Importing the package makes its own kinds of model known to transformers' Auto classes."""

from kd_lightning.student import bilstm, bow, cnn, ib_bert
from kd_lightning.student.adabert import model

__all__ = ["bilstm", "bow", "cnn", "ib_bert", "model"]
