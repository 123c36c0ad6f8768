"""Data sets of the series, all as one ``Table``."""

from mtlkit.data.table import SPLITS, Table

__all__ = ["SPLITS", "Table"]
