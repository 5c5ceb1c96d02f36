"""Importing the package makes its own students known to transformers' Auto classes."""

from kd_lightning.student import bilstm, bow, cnn

__all__ = ["bilstm", "bow", "cnn"]
