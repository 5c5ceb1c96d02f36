"""Importing the package makes its own students known to transformers' Auto classes."""

from kd_lightning.student import adabert, bilstm, bow, cnn

__all__ = ["adabert", "bilstm", "bow", "cnn"]
