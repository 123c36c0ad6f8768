"""Finished models, one file each, with the paper's equation above the line that computes it.

Every model maps (B, D) to logits (B, T). ``Recommender`` puts a feature encoder in front of one.
A model that adds something to the loss has a method ``penalty()``.
"""

from mtlkit.models.adatt import AdaTT
from mtlkit.models.cgc import CGC
from mtlkit.models.cross_stitch import CrossStitch
from mtlkit.models.home import HoME
from mtlkit.models.l2_constrained import L2Constrained
from mtlkit.models.ml_mmoe import MLMMoE
from mtlkit.models.mmoe import MMoE
from mtlkit.models.omoe import OMoE
from mtlkit.models.ple import PLE
from mtlkit.models.recommender import Recommender
from mtlkit.models.shared_bottom import SharedBottom
from mtlkit.models.single_task import SingleTask
from mtlkit.models.sizes import count_parameters, match_width, shared_bottom_width
from mtlkit.models.snr import SNRAver, SNRTrans

__all__ = [
    "AdaTT",
    "CGC",
    "CrossStitch",
    "HoME",
    "L2Constrained",
    "MLMMoE",
    "MMoE",
    "OMoE",
    "PLE",
    "Recommender",
    "SNRAver",
    "SNRTrans",
    "SharedBottom",
    "SingleTask",
    "count_parameters",
    "match_width",
    "shared_bottom_width",
]
