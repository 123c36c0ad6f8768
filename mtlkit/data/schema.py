"""What the columns of a user's own log mean: a small TOML or JSON file.

categorical = ["user_id", "video_id", "tab"]
dense = ["duration", "age"]
log = ["duration"]           # of the dense columns: log1p before they are scaled
user = "user_id"             # for GAUC
min_count = 10               # a value with fewer training rows counts as unknown

[labels]
like = "binary"              # an empty label is unobserved
minutes = "regression"

[categories]                 # for HoME only
like = "interaction"

[split]                      # or: column = "part" (its values: train, validation, test)
date = "day"                 # or: random = [0.8, 0.1, 0.1], seed = 0
validation = "2024-05-04"
test = "2024-05-06"
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

from mtlkit.data.fetch import DataError
from mtlkit.data.table import Kind

_RULES = {"column": {"column"}, "date": {"date", "validation", "test"}, "random": {"random", "seed"}}


@dataclass(frozen=True)
class Schema:
    """Which columns are inputs, labels and users, and how the rows are split (see the module's text).

    Raises ``DataError`` with one sentence where the parts do not fit together.
    """

    labels: Mapping[str, Kind]
    split: Mapping[str, object]
    categorical: tuple[str, ...] = ()
    dense: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    user: str | None = None
    min_count: int = 1
    categories: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("categorical", "dense", "log"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))
        if not self.labels:
            raise DataError("The schema has no labels; give at least one: [labels] like = 'binary'.")
        for task, kind in self.labels.items():
            if kind not in ("binary", "regression"):
                raise DataError(
                    f"The schema's label {task!r} must be 'binary' or 'regression', got {kind!r}."
                )
            if task in self.inputs:
                raise DataError(f"The schema names {task!r} as a label and as an input; it cannot be both.")
        if not self.inputs:
            raise DataError("The schema has no inputs; give categorical = [...] or dense = [...].")
        if twice := sorted(name for name in set(self.inputs) if self.inputs.count(name) > 1):
            raise DataError(f"The schema names {twice[0]!r} twice among categorical and dense.")
        for name, given, among in (
            ("log", self.log, self.dense),
            ("categories", self.categories, tuple(self.labels)),
        ):
            if other := [entry for entry in given if entry not in among]:
                raise DataError(
                    f"The schema's {name} names {other[0]!r}, which is none of {', '.join(among) or 'none'}."
                )
        if self.user is not None and not isinstance(self.user, str):
            raise DataError(f"The schema's user must be the name of one column, got {self.user!r}.")
        if isinstance(self.min_count, bool) or not isinstance(self.min_count, int) or self.min_count < 1:
            raise DataError(f"The schema's min_count must be a whole number >= 1, got {self.min_count!r}.")
        object.__setattr__(self, "split", _rule(self.split))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that a model reads."""
        return self.categorical + self.dense

    @property
    def split_column(self) -> str | None:
        """The column that decides the split; None where chance does."""
        return self.split.get("column") or self.split.get("date")

    def columns(self, labels: bool = True) -> tuple[str, ...]:
        """All columns to read, each once."""
        wanted = [*self.inputs, *(self.labels if labels else ()), self.user, self.split_column]
        return tuple(dict.fromkeys(name for name in wanted if name))

    @classmethod
    def of(cls, parts: Mapping[str, object]) -> Schema:
        """From a dictionary as the file holds it."""
        known = list(cls.__dataclass_fields__)
        if other := [name for name in parts if name not in known]:
            raise DataError(f"The schema has an unknown entry {other[0]!r}; there are {', '.join(known)}.")
        for name in ("labels", "split"):
            if not isinstance(parts.get(name), Mapping):
                raise DataError(f"The schema needs a section [{name}].")
        return cls(**parts)

    @classmethod
    def read(cls, path: str | Path) -> Schema:
        """From a .toml or .json file. Raises ``DataError`` that names the file."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            parts = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except (OSError, ValueError) as error:  # both parsers' errors are ValueErrors
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"The schema {path} cannot be read ({reason}).") from error
        try:
            return cls.of(parts if isinstance(parts, Mapping) else {})
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def as_dict(self) -> dict:
        """What ``of`` takes, fit for JSON."""
        return json.loads(json.dumps(asdict(self)))


def _names(name: str, given: object) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise DataError(f"The schema's {name} must be a list of column names, got {given!r}.")
    if wrong := [entry for entry in given if not isinstance(entry, str)]:
        raise DataError(f"The schema's {name} must be a list of column names, but holds {wrong[0]!r}.")
    return tuple(given)


def _rule(split: Mapping[str, object]) -> dict[str, object]:
    """The split's rule, complete and checked; dates as YYYYMMDD."""
    kinds = [kind for kind in _RULES if kind in split]
    if len(kinds) != 1 or set(split) - _RULES[kinds[0]]:
        raise DataError(
            "The schema's [split] must be one of: column = ...; date = ... with validation and test; "
            f"random = [train, validation, test] with seed; got {', '.join(split) or 'nothing'}."
        )
    rule = dict(split)
    if kinds == ["random"]:
        rule.setdefault("seed", 0)
        shares = rule["random"]
        good = isinstance(shares, list | tuple) and len(shares) == 3
        good = good and all(isinstance(x, int | float) and 0 <= x <= 1 for x in shares)
        if not good or abs(sum(shares) - 1) > 1e-6:
            raise DataError(f"The schema's random split must be three shares that sum to 1, got {shares!r}.")
        if isinstance(rule["seed"], bool) or not isinstance(rule["seed"], int) or rule["seed"] < 0:
            raise DataError(f"The schema's seed must be a whole number >= 0, got {rule['seed']!r}.")
    elif not isinstance(rule[kinds[0]], str):
        raise DataError(f"The schema's split {kinds[0]} must be a column's name, got {rule[kinds[0]]!r}.")
    if kinds == ["date"]:
        for name in ("validation", "test"):
            try:
                rule[name] = f"{date.fromisoformat(str(rule.get(name))):%Y%m%d}"
            except ValueError as error:
                raise DataError(
                    f"The schema's split by date needs {name} = its first day, such as '2024-05-04'; "
                    f"got {rule.get(name)!r}."
                ) from error
        if not rule["validation"] < rule["test"]:
            raise DataError("The schema's validation must begin before its test.")
    return rule
