"""mtlkit: multi-task recommender models, from Shared-Bottom to HoME.

>>> from mtlkit import data, models, training
"""

__version__ = "0.1.0"
