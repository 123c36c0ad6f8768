"""Draw README's picture: who sees which expert, in the four models of the series.

python -m tools.picture
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from mtlkit import plots

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "img" / "series.png"

# gates (rows) x experts (columns); HoME's second layer, with the categories watch and interact
ALL = ["click", "like", "long view"]
MODELS = [
    ("Shared-Bottom", ALL, ["bottom"], np.ones((3, 1))),
    ("MMoE", ALL, ["1", "2", "3", "4"], np.ones((3, 4))),
    ("PLE", ALL, ["click", "like", "long view", "shared"], np.c_[np.eye(3), np.ones(3)]),
    (
        "HoME",
        ALL,
        ["click", "like", "long view", "interact", "watch", "shared"],
        np.c_[np.eye(3), [1, 1, 0], [0, 0, 1], np.ones(3)],
    ),
]


def main() -> None:
    """Write docs/img/series.png."""
    ratios = [len(experts) + 1.2 for _, _, experts, _ in MODELS]
    figure, axes = plt.subplots(1, 4, figsize=(11, 2.6), width_ratios=ratios, layout="constrained")
    for ax, (title, gates, experts, visible) in zip(axes, MODELS, strict=True):
        plots.who_sees_whom(visible, gates, experts, title, ax)
    figure.supylabel("tasks", fontsize=9)
    figure.supxlabel("experts, by owner", fontsize=9)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=130)


if __name__ == "__main__":
    main()
