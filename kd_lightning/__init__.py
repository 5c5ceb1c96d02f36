"""Importing the package makes its own kinds of model known to transformers' Auto classes."""

from kd_lightning.ib_bert import IBBertForMaskedLM, IBBertForSequenceClassification, IBBertModel

__all__ = ["IBBertForMaskedLM", "IBBertForSequenceClassification", "IBBertModel"]
