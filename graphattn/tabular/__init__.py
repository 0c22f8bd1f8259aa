"""Estimators that let the rows of a table attend to one another, and the encoding of tables, scikit-learn style."""

from graphattn.tabular.encoding import TableEncoder
from graphattn.tabular.npt import NPTClassifier, NPTRegressor
from graphattn.tabular.transport import OTClassifier

__all__ = ["NPTClassifier", "NPTRegressor", "OTClassifier", "TableEncoder"]
