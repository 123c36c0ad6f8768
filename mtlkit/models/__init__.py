"""Finished models, one file each, with the paper's equation above the line that computes it.

Every model maps (B, D) to logits (B, T). ``Recommender`` puts a feature encoder in front of one.
"""

from mtlkit.models.recommender import Recommender
from mtlkit.models.shared_bottom import SharedBottom
from mtlkit.models.single_task import SingleTask

__all__ = ["Recommender", "SharedBottom", "SingleTask"]
