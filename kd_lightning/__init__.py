"""Importing the package makes its own kinds of model known to transformers' Auto classes."""

from kd_lightning import ib_bert
from kd_lightning.student import adabert, bilstm, bow, cnn

__all__ = ["adabert", "bilstm", "bow", "cnn", "ib_bert"]
