"""The figures of the series. Each function draws on the axes it is given and returns them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette: it stays readable for colour-blind readers and in grey print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"


def new_axes(width: float = 6.0, height: float = 3.6) -> Axes:
    """One pair of axes of a plain style, in inches."""
    figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def style(i: int) -> dict[str, str]:
    """Colour and marker of line ``i``; no two of 49 lines have both in common."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
    }


def _legend(ax: Axes) -> None:
    """Names of the lines: inside where they are few, else beside the axes, where they hide nothing."""
    beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "fontsize": 8}
    ax.legend(frameon=False, **(beside if len(ax.get_legend_handles_labels()[1]) > 6 else {}))


def _name_columns(ax: Axes, names: Sequence[object], left: float = 1.4) -> None:
    """Names below the columns 0, 1, ...; slanted where they would run into each other.

    ``left``: inches for what stands left of the axes.
    """
    inches = (ax.figure.get_size_inches()[0] - left) / len(names)
    slanted = max(len(str(name)) for name in names) > 8 * inches
    ax.set_xticks(range(len(names)), names)
    if slanted:
        ax.tick_params(axis="x", rotation=40)
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")


def show(ax: Axes, alt: str) -> None:
    """Display the figure of ``ax`` in a notebook with a text that says what to read from it.

    The text reaches screen readers and pages made from the notebook, and stands where images are off.
    """
    from IPython.display import display  # only notebooks need it

    figure: Figure = ax.figure
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    plt.close(figure)
    bundle = {"image/png": png.getvalue(), "text/plain": alt}
    display(bundle, metadata={"image/png": {"alt": alt}}, raw=True)


def label_correlation(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Label correlation over the cosine of the task weights: mean and 2 standard deviations.

    ``frame`` has the columns cosine and label_correlation, a row per draw.
    Source: MMoE paper (Ma et al., KDD 2018) Fig. 2.
    """
    ax = ax or new_axes()
    grouped = frame.groupby("cosine")["label_correlation"]
    mean, spread = grouped.mean(), 2 * grouped.std()
    ax.errorbar(mean.index, mean, yerr=spread, fmt="o-", color=COLOURS[0], capsize=3, label="mean, 2 sd")
    ax.axline((0, 0), slope=1, color="0.6", linestyle=":", label="equal")
    ax.set_xlabel("cosine of the task weights (the knob)")
    ax.set_ylabel("Pearson correlation of the labels")
    ax.legend(frameon=False)
    return ax


def loss_curves(frame: pd.DataFrame, group: str, y: str, ax: Axes | None = None) -> Axes:
    """Loss over training steps, a line per value of ``group``: mean over runs and its standard error.

    ``frame`` has the columns step, ``group`` and ``y``, a row per run and step.
    Source: MMoE paper (Ma et al., KDD 2018) Fig. 3 and 4.
    """
    ax = ax or new_axes()
    for i, (name, part) in enumerate(frame.groupby(group, sort=False)):
        by_step = part.groupby("step")[y]
        mean, error = by_step.mean(), by_step.sem().fillna(0.0)
        marks, look = max(len(mean) // 8, 1), style(i)
        ax.plot(mean.index, mean, **look, markevery=marks, label=f"{group} {name}")
        ax.fill_between(mean.index, mean - error, mean + error, color=look["color"], alpha=0.2, linewidth=0)
    ax.set_xlabel("training steps")
    ax.set_ylabel(y)
    _legend(ax)
    return ax


def cosine_table(cosine: np.ndarray, tasks: Sequence[str], ax: Axes | None = None) -> Axes:
    """The cosines between task gradients (T, T) as coloured cells with their numbers."""
    ax = ax or new_axes(max(3.6, 0.6 * len(tasks) + 1.2), max(3.0, 0.5 * len(tasks) + 1.2))
    ax.imshow(cosine, cmap="PuOr", vmin=-1, vmax=1)
    for i, j in np.ndindex(cosine.shape):
        dark = abs(cosine[i, j]) > 0.6
        ax.text(j, i, f"{cosine[i, j]:+.2f}", ha="center", va="center", color="white" if dark else "black")
    _name_columns(ax, tasks)
    ax.set_yticks(range(len(tasks)), tasks)
    ax.spines[:].set_visible(False)
    return ax


def who_sees_whom(
    visible: np.ndarray, gates: Sequence[str], experts: Sequence[str], title: str, ax: Axes | None = None
) -> Axes:
    """The boolean matrix of a model: which gate (row) sees which expert (column)."""
    ax = ax or new_axes(0.6 * len(experts) + 1.4, 0.4 * len(gates) + 1.0)
    visible = np.asarray(visible, dtype=float)
    ax.imshow(visible, cmap="Blues", vmin=0, vmax=1.6)
    for i, j in np.argwhere(visible):
        ax.text(j, i, "sees", ha="center", va="center", fontsize=7)
    ax.set_xticks(range(len(experts)), experts, rotation=40, ha="right", fontsize=8)
    ax.set_yticks(range(len(gates)), gates, fontsize=8)
    ax.set_xticks(np.arange(-0.5, len(experts)), minor=True)
    ax.set_yticks(np.arange(-0.5, len(gates)), minor=True)
    ax.grid(which="minor", color="0.8", linewidth=0.8)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(title, fontsize=10)
    return ax


def expert_use(
    mean: np.ndarray, gates: Sequence[str], experts: Sequence[object] | None = None, ax: Axes | None = None
) -> Axes:
    """Mean gate weights (G, E) as coloured cells with their numbers: which gate (row) uses which expert.

    ``experts`` names the columns; their numbers, from 0, unless given.
    Source: MMoE paper (Ma et al., KDD 2018) Fig. 6, as a table.
    """
    mean = np.asarray(mean)
    left = max(1.4, 0.5 + 0.1 * max(len(str(gate)) for gate in gates))  # the gates' names
    ax = ax or new_axes(0.6 * mean.shape[1] + left, 0.5 * mean.shape[0] + 1.0)
    top = max(mean.max(), 2 / mean.shape[1])  # equal shares look pale, whatever the number of experts
    ax.imshow(mean, cmap="Blues", vmin=0, vmax=top)
    for i, j in np.ndindex(mean.shape):
        colour = "white" if mean[i, j] > 0.6 * top else "black"
        ax.text(j, i, f"{mean[i, j]:.2f}", ha="center", va="center", fontsize=8, color=colour)
    experts = list(range(mean.shape[1]) if experts is None else experts)
    _name_columns(ax, experts, left)
    ax.set_xlabel("expert")
    ax.set_yticks(range(len(gates)), gates)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def expert_bars(
    mean: np.ndarray, sd: np.ndarray, gates: Sequence[str], experts: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Mean gate weights (G, E) as bars and their standard deviations as lines, a group of bars per gate.

    Source: PLE paper (Tang et al., RecSys 2020) Fig. 8, drawn with one expert per module.
    """
    mean, sd = np.asarray(mean), np.asarray(sd)
    ax = ax or new_axes()
    place, width = np.arange(len(gates)), 0.8 / len(experts)
    for e, name in enumerate(experts):
        ax.bar(
            place + (e - (len(experts) - 1) / 2) * width,
            mean[:, e],
            0.9 * width,
            yerr=sd[:, e],
            color=COLOURS[e % 7],
            hatch="/" * 3 if e >= 7 else None,  # the colours begin again
            ecolor="0.3",
            label=name,
        )
    _name_columns(ax, gates, left=2.6)  # the legend, too
    ax.set_ylim(0, 1)
    ax.set_ylabel("gate weight, mean and sd")
    ax.legend(frameon=False, title="expert", loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def expert_outputs(experts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Mean and variance of each expert's outputs, and its share of zeros under its number.

    ``experts`` has the columns mean, variance and zeros, a row per expert: one level of the table of experts
    that ``illnesses.examine`` gives. The scale is logarithmic beyond 0.001.
    Source: HoME paper (Wang et al., KDD 2025) Fig. 2(c).
    """
    ax = ax or new_axes(0.7 * len(experts) + 1.8)
    place = np.arange(len(experts))
    for i, name in enumerate(("mean", "variance")):
        ax.bar(place + 0.4 * (i - 0.5), experts[name], 0.36, color=COLOURS[i], label=name)
    ax.set_yscale("symlog", linthresh=1e-3)
    ax.axhline(0, color="0.6", linewidth=0.8)
    labels = [f"{e}\n{zeros:.0%} zeros" for e, zeros in zip(experts.index, experts["zeros"], strict=True)]
    ax.set_xticks(place, labels, fontsize=8)
    ax.set_xlabel("expert")
    ax.set_ylabel("of its outputs")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def feature_gates(
    factors: np.ndarray, groups: Sequence[str], features: Sequence[str], ax: Axes | None = None
) -> Axes:
    """Mean factors (G, D) of ``layers.FeatureGates`` as coloured cells: white is 1, where nothing is changed.

    ``features`` names the D columns; neighbours of one name (the embedding of a field) get one label.
    Source: HoME paper (Wang et al., KDD 2025) Fig. 6.
    """
    factors = np.asarray(factors)
    ax = ax or new_axes(0.13 * len(features) + 1.6, 0.3 * len(groups) + 1.7)
    reach = max(np.abs(factors - 1).max(), 0.05)
    image = ax.imshow(factors, cmap="PuOr_r", vmin=1 - reach, vmax=1 + reach, aspect="auto")
    ax.figure.colorbar(image, ax=ax, label="factor")
    starts = [i for i, name in enumerate(features) if i == 0 or features[i - 1] != name]
    ends = [*starts[1:], len(features)]
    middles = [(a + b - 1) / 2 for a, b in zip(starts, ends, strict=True)]
    ax.set_xticks(middles, [features[i] for i in starts], rotation=90, fontsize=7)
    for start in starts[1:]:
        ax.axvline(start - 0.5, color="0.8", linewidth=0.6)
    ax.set_yticks(range(len(groups)), groups)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def seesaw(gains: pd.DataFrame, metric: str = "AUC", ax: Axes | None = None) -> Axes:
    """The table of ``diagnosis.transfer``: the gain on each task with its 95 % interval, a dot per model.

    Dots of one model on both sides of the line are the seesaw.
    Source: MTL gain, PLE paper (Tang et al., RecSys 2020) Eq. 11.
    """
    ax = ax or new_axes()
    models, tasks = (gains.index.unique(level) for level in ("model", "task"))
    for i, model in enumerate(models):
        part = gains.loc[model].reindex(tasks)
        place = np.arange(len(tasks)) + 0.5 * ((i + 0.5) / len(models) - 0.5)
        ax.errorbar(place, part["gain"], yerr=part["ci95"], label=model, **style(i), ls="", capsize=3)
    ax.axhline(0, color="0.6", linestyle=":")
    _name_columns(ax, tasks)
    ax.set_ylabel(f"{metric} gain over single tasks")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def loss_over_correlation(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Final loss over the knob, a line per model: mean over the runs and its standard error.

    ``frame`` has the columns model, p and loss, a row per run.
    """
    ax = ax or new_axes()
    for i, (name, part) in enumerate(frame.groupby("model", sort=False)):
        by_p = part.groupby("p")["loss"]
        mean, error = by_p.mean(), by_p.sem().fillna(0.0)
        ax.errorbar(mean.index, mean, yerr=error, **style(i), capsize=3, label=name)
    ax.set_xticks(sorted(frame["p"].unique()))
    ax.set_ylim(bottom=0)
    ax.set_xlabel("cosine of the task weights (the knob)")
    ax.set_ylabel("final loss, mean of both tasks")
    _legend(ax)
    return ax


def spread(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Final losses of single runs, a column of dots per model; thin lines join the runs of one seed.

    ``frame`` has the columns model, run and loss. Source: MMoE paper (Ma et al., KDD 2018) Fig. 5, whose
    histograms need hundreds of runs; dots show few of them honestly.
    """
    ax = ax or new_axes()
    table = frame.pivot(index="run", columns="model", values="loss")[list(frame["model"].unique())]
    ax.plot(range(table.shape[1]), table.T, color="0.8", linewidth=0.8, zorder=1)
    for i, name in enumerate(table):
        look = style(i)
        ax.plot([i] * len(table), table[name], **look, ls="", alpha=0.7)
        ax.hlines(table[name].mean(), i - 0.15, i + 0.15, color=look["color"])
    _name_columns(ax, table.columns)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("final loss, mean of both tasks")
    return ax
