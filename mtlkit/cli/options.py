"""``name=value`` words of the command line become arguments, checked against who takes them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence

from mtlkit import data, models

MODELS = {
    name: getattr(models, name)
    for name in models.__all__
    if isinstance(getattr(models, name), type) and name != "Recommender"
}
DATA = {
    "census": data.census_income,
    "kuairand": data.kuairand,
    "relatedness": data.relatedness,
    "short_video": data.short_video,
}


# what a constructor's annotation names -> what the user may write
_KINDS = {"int": "whole numbers, such as 8 or 64,32", "bool": "True or False"}


def parse(words: Sequence[str], option: str) -> dict[str, object]:
    """``["experts=8", "expert=64,32", "levels=64/32,16"]`` -> 8, [64, 32], [[64], [32, 16]]; else text."""
    found = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals):
            raise ValueError(f"{option}: {word!r} is not of the form name=value, such as experts=8.")
        if name in found:
            raise ValueError(f"{option}: {name} is given twice.")
        found[name] = _value(text)
    return found


def _value(text: str) -> object:
    levels = [_list(level) for level in text.split("/")]
    if len(levels) > 1 and all(isinstance(x, int | float) for level in levels for x in level):
        return levels  # a path has slashes, too
    return _list(text) if "," in text else _one(text)


def _list(text: str) -> list:
    return [_one(part) for part in text.split(",") if part]


def _one(text: str) -> object:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, bool | int | float | None) else text


def sizes(model: str, words: Sequence[str]) -> dict[str, object]:
    """The constructor arguments of ``--set``; a lone number where a list is meant becomes one."""
    if model not in MODELS:
        raise ValueError(f"--model: there is no {model!r}; there are {', '.join(MODELS)}.")
    kind = MODELS[model]
    free = ("in_width", "tasks") + (("groups",) if getattr(kind, "reads_categories", False) else ())
    known = _parameters(kind)
    given = _checked(
        parse(words, "--set"), {n: p for n, p in known.items() if n not in free[:2]}, model, "--set"
    )
    for name, parameter in known.items():
        if parameter.default is parameter.empty and name not in (*free, *given):
            raise ValueError(f"{model} needs {name}; give it, for example --set {name}=64,32.")
    for name, value in given.items():
        depth = str(known[name].annotation).count("Sequence[") if "|" not in known[name].annotation else 0
        while _depth(value) < depth:
            value = [value]
        for kind, words in _KINDS.items():
            if kind in known[name].annotation and not _fits(value, known[name].annotation, kind):
                raise ValueError(f"--set: {name} takes {words}; got {value!r}.")
        given[name] = value
    return given


def data_options(name: str, words: Sequence[str]) -> dict[str, object]:
    """The arguments of ``--data-set`` for a data set of the package."""
    known = _parameters(DATA[name])
    given = _checked(parse(words, "--data-set"), known, name, "--data-set")
    for parameter in known.values():
        if parameter.default is parameter.empty and parameter.name not in given:
            raise ValueError(f"{name} needs {parameter.name}; give it with --data-set {parameter.name}=...")
    return {n: tuple(value) if isinstance(value, list) else value for n, value in given.items()}


def _parameters(call: Callable) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(call).parameters)


def _checked(given: dict, known: dict, owner: str, option: str) -> dict:
    if other := [name for name in given if name not in known]:
        raise ValueError(f"{option}: {owner} has no {other[0]!r}; it has {', '.join(known)}.")
    return given


def _fits(value: object, annotation: str, kind: str) -> bool:
    if isinstance(value, list):
        return "[" in annotation and all(_fits(x, annotation, kind) for x in value)
    return type(value).__name__ == kind or (value is None and "None" in annotation)


def _depth(value: object) -> int:
    return 1 + (_depth(value[0]) if value else 0) if isinstance(value, list) else 0
