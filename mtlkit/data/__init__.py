"""Data sets of the series, all as one ``Table``."""

from mtlkit.data.census import census_income
from mtlkit.data.fetch import DataError
from mtlkit.data.kuairand import kuairand
from mtlkit.data.relatedness import relatedness
from mtlkit.data.short_video import short_video
from mtlkit.data.table import SPLITS, Table

__all__ = ["SPLITS", "DataError", "Table", "census_income", "kuairand", "relatedness", "short_video"]
