"""Exercise 4.10: what the names of the ablations switch off."""

from __future__ import annotations

from autograde_tests.exercise import Draw, Exercise, Trial


def switches(name):
    parts = name.split("w/o ")[1].split("-") if "w/o" in name else []
    return {
        "feature_gates": ("fg" not in parts, "fg" not in parts and "fg2" not in parts),
        "self_gates": "sg" not in parts,
        "mask": "mask" not in parts,
    }


def _other(**rules):
    """switches with other rules: key -> function of the name's parts."""

    def answer(name):
        parts = name.split("w/o ")[1].split("-") if "w/o" in name else []
        return switches(name) | {key: rule(parts) for key, rule in rules.items()}

    return answer


def _upside_down(name):
    right = switches(name)
    return {
        "feature_gates": tuple(not gate for gate in right["feature_gates"]),
        "self_gates": not right["self_gates"],
        "mask": not right["mask"],
    }


def _first_part(name):
    return switches(name.split("-")[0])


def _last_part(name):
    return switches("w/o " + name.split("w/o ")[-1].split("-")[-1] if "w/o" in name else name)


def _uncut(name):
    return switches("HoME w/o " + "-".join(["", *name.split("-")[1:]]))


def _whole(name):
    """Combinations are not taken apart."""
    return switches(name) if "-" not in name else switches("HoME")


def _table(name):
    off = {"fg2": (1, 0, 1, 1), "fg": (0, 0, 1, 1), "sg": (1, 1, 0, 1), "mask": (1, 1, 1, 0)}
    state = [1, 1, 1, 1]
    for part in name.replace("HoME", "").replace("w/o", "").strip().split("-"):
        state = [a * b for a, b in zip(state, off.get(part, (1, 1, 1, 1)), strict=True)]
    return {"mask": state[3], "self_gates": state[2], "feature_gates": [bool(v) for v in state[:2]]}


NAMES = ["HoME", "HoME w/o fg2", "HoME w/o fg", "HoME w/o sg", "HoME w/o mask"]
NAMES += ["HoME w/o fg-sg", "HoME w/o fg-sg-mask", "HoME w/o sg-mask", "HoME w/o fg2-sg"]

SWITCHES = Exercise(
    id="4.10",
    title="the switches of an ablation",
    how="function",
    reference=switches,
    example=Trial("the name HoME w/o fg2", {"name": "HoME w/o fg2"}),
    draw=lambda rng, i: Draw({"name": NAMES[i]}),
    sizes={name: {"i": i} for i, name in enumerate(NAMES)},
    real_valued=False,
    mistakes={
        "the switches stand the wrong way round: what the name takes away is left, and the rest is gone. What does "
        "True mean?": _upside_down,
        "the feature gates are there only where the name takes them away. What does True mean?": _other(
            feature_gates=lambda p: ("fg" in p, "fg2" in p)
        ),
        "the pair of feature gates is True where the name takes them away. What does True mean?": _other(
            feature_gates=lambda p: ("fg" in p, "fg" in p or "fg2" in p)
        ),
        'fg2 takes the feature gates away on both levels. Is the text "fg" also in "fg2"?': _other(
            feature_gates=lambda p: ("fg" not in p and "fg2" not in p,) * 2
        ),
        "fg2 takes the feature gates of level 1 away. Which level has the number 2?": _other(
            feature_gates=lambda p: ("fg" not in p and "fg2" not in p, "fg" not in p)
        ),
        "fg takes the feature gates of level 1 alone. How many levels have feature gates?": _other(
            feature_gates=lambda p: ("fg" not in p, "fg2" not in p)
        ),
        "fg takes the feature gates of level 2 alone. How many levels have feature gates?": _other(
            feature_gates=lambda p: (True, "fg" not in p and "fg2" not in p)
        ),
        "fg2 takes nothing away. Which level has the number 2?": _other(
            feature_gates=lambda p: ("fg" not in p,) * 2
        ),
        "sg takes nothing away. What is short for self gates?": _other(self_gates=lambda p: True),
        'mask takes nothing away. What does "w/o mask" mean?': _other(mask=lambda p: True),
        "sg and mask have changed places. What is short for self gates?": _other(
            self_gates=lambda p: "mask" not in p, mask=lambda p: "sg" not in p
        ),
        "fg takes the self gates away, too. What do the two letters stand for?": _other(
            self_gates=lambda p: "sg" not in p and "fg" not in p
        ),
        "only the first part of a combination counts. How many parts has fg-sg-mask?": _first_part,
        "only the last part of a combination counts. How many parts has fg-sg-mask?": _last_part,
        'the name is cut at each "-", but "HoME w/o" still stands before the first part. Which text is the first '
        "part?": _uncut,
        "a combination takes nothing away. What stands between its parts?": _whole,
    },
    also_right=[
        _table,
        _other(feature_gates=lambda p: ["fg" not in p, not {"fg", "fg2"} & set(p)]),
    ],
)
