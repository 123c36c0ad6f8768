"""The text format of Census-Income (KDD): its columns and values, and a strict, fast parser.

No header, 42 columns, ", " between the values, "?" for a missing one ("NA" is a value of
hisp_origin). Labels of two columns stay readable here; which ones become tasks is for the caller.
"""

from __future__ import annotations

import io
from csv import QUOTE_NONE

import numpy as np
import pandas as pd

from mtlkit.data.fetch import DataError

COLUMNS = tuple(
    """age class_worker det_ind_code det_occ_code education wage_per_hour hs_college marital_stat
    major_ind_code major_occ_code race hisp_origin sex union_member unemp_reason full_or_part_emp
    capital_gains capital_losses stock_dividends tax_filer_stat region_prev_res state_prev_res
    det_hh_fam_stat det_hh_summ instance_weight mig_chg_msa mig_chg_reg mig_move_reg mig_same
    mig_prev_sunbelt num_emp fam_under_18 country_father country_mother country_self citizenship
    own_or_self vet_question vet_benefits weeks_worked year income_50k""".split()
)
NUMERIC = (
    "age",
    "wage_per_hour",
    "capital_gains",
    "capital_losses",
    "stock_dividends",
    "num_emp",
    "weeks_worked",
)
# task -> (column, {value: label}); "at least college" means associate degree or higher: with it
# the labels' correlation is the one that the MMoE paper prints.
LABELS: dict[str, tuple[str, dict[str, float]]] = {
    "income": ("income_50k", {"- 50000.": 0.0, "50000+.": 1.0}),
    "education": (
        "education",
        dict.fromkeys(
            (
                "Children",
                "Less than 1st grade",
                "1st 2nd 3rd or 4th grade",
                "5th or 6th grade",
                "7th and 8th grade",
                "9th grade",
                "10th grade",
                "11th grade",
                "12th grade no diploma",
                "High school graduate",
                "Some college but no degree",
            ),
            0.0,
        )
        | dict.fromkeys(
            (
                "Associates degree-occup /vocational",
                "Associates degree-academic program",
                "Bachelors degree(BA AB BS)",
                "Masters degree(MA MS MEng MEd MSW MBA)",
                "Prof school degree (MD DDS DVM LLB JD)",
                "Doctorate degree(PhD EdD)",
            ),
            1.0,
        )
        | dict.fromkeys(("?", ""), np.nan),
    ),
    "never_married": (
        "marital_stat",
        dict.fromkeys(
            (
                "Divorced",
                "Married-A F spouse present",
                "Married-civilian spouse present",
                "Married-spouse absent",
                "Separated",
                "Widowed",
            ),
            0.0,
        )
        | {"Never married": 1.0, "?": np.nan, "": np.nan},
    ),
}
# The label columns are no inputs (``census_income`` can keep education). The names file says of
# instance_weight that it "should *not* be used in the classifiers".
CATEGORICAL = tuple(
    c for c in COLUMNS if c not in (*NUMERIC, "instance_weight", *(column for column, _ in LABELS.values()))
)
# every column that the parser keeps as codes
_CODED = (*CATEGORICAL, *(column for column, _ in LABELS.values()))


def parse(texts: dict[str, bytes]) -> dict[str, np.ndarray]:
    """Parse files of the official format, {name: text}, into columns; the files' rows follow on.

    Returns a flat dict, fit for an .npz file: ``rows`` (a count for each file), each column of
    ``NUMERIC`` as (N,) float32, and each other one (but for the instance weight) as (N,) codes
    with its sorted ``<column> values``.

    Raises ``DataError`` that names file, line and column of the first fault.
    """
    frames = [_frame(name, text) for name, text in texts.items()]
    arrays = {"rows": np.array([len(frame) for frame in frames])}
    for column in NUMERIC:
        arrays[column] = np.concatenate([frame[column].to_numpy(np.float32) for frame in frames])
    for column in _CODED:
        # A few texts of the official files end in a space; the files may know other values.
        known = [_stripped(frame[column]) for frame in frames]
        values = np.unique(np.concatenate(known))
        kind = np.min_scalar_type(len(values))
        arrays[f"{column} values"] = values
        arrays[column] = np.concatenate(
            [
                np.searchsorted(values, names).astype(kind)[frame[column].cat.codes.to_numpy()]
                for names, frame in zip(known, frames, strict=True)
            ]
        )
    return arrays


def _stripped(column: pd.Series) -> np.ndarray:
    return np.array([str(value).strip() for value in column.cat.categories], dtype=np.str_)


def _frame(name: str, text: bytes) -> pd.DataFrame:
    """One file's columns. The fast path only notices a fault; ``_first_fault`` then finds it."""
    try:
        frame = pd.read_csv(
            io.BytesIO(text),
            header=None,
            names=COLUMNS,
            usecols=[*NUMERIC, *_CODED],
            index_col=False,
            dtype=dict.fromkeys(NUMERIC, np.float64) | dict.fromkeys(_CODED, "category"),
            skipinitialspace=True,
            na_filter=False,  # "NA" is a value, and pandas must not invent NaN
            quoting=QUOTE_NONE,
        )
    except ValueError as error:  # ParserError, EmptyDataError and UnicodeDecodeError are such too
        raise DataError(_first_fault(name, text) or f"{name} cannot be parsed ({error}).") from error
    numbers = frame[list(NUMERIC)].to_numpy()
    sound = (
        # A line with too few columns has an empty income below; so if the commas are as many as
        # they should be, no line has too many (pandas would drop the rest of it).
        text.count(b",") == len(frame) * (len(COLUMNS) - 1)
        and np.isfinite(numbers).all()
        and (numbers >= 0).all()
        and all(set(_stripped(frame[column])) <= set(known) for column, known in LABELS.values())
    )
    if not sound or not len(frame):
        raise DataError(_first_fault(name, text) or f"{name} cannot be parsed.")
    return frame


def _first_fault(name: str, text: bytes) -> str | None:
    """The sentence about the first line that breaks the format, or None."""
    for number, line in enumerate(text.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            values = [value.strip() for value in line.decode().split(",")]
        except UnicodeDecodeError:
            return f"{where} is no UTF-8 text; copy or download the file again."
        if len(values) != len(COLUMNS):
            return (
                f"{where} has {len(values)} columns instead of {len(COLUMNS)}; the columns must be "
                "those of the official file, separated by commas."
            )
        row = dict(zip(COLUMNS, values, strict=True))
        for column in NUMERIC:
            if not _is_amount(row[column]):
                return (
                    f"{where}, column {column}: {row[column]!r} is not a number >= 0; the file "
                    "must have no header line and the official order of columns."
                )
        for column, known in LABELS.values():
            if row[column] not in known:
                return (
                    f"{where}, column {column}: {row[column]!r} is not one of the official values, "
                    f"such as {next(iter(known))!r}; correct or remove the line."
                )
    return None if text.strip() else f"{name} has no rows; copy it again."


def _is_amount(text: str) -> bool:
    try:
        return 0 <= float(text) < float("inf")
    except ValueError:
        return False
