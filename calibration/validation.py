"""Check class probabilities and labels before anything is computed from them.

Metric libraries take NaN, logits and out-of-range labels without a word and return a number.
Everything in this package goes through `validate` first, which names the row at fault.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.errors import InvalidPredictionsError

SUM_TOLERANCE = 1e-4
# exp(logsumexp(...)) in float32 can overshoot 1 by a few units of its last place (6e-8).
ROUNDING = 1e-6

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Predictions:
    """Checked predictions. Build them with `validate`.

    Attributes:
        probabilities: float64 [n, K_max]; a row with fewer options is padded with zeros.
        num_options: int64 [n], how many leading columns of each row are options.
        labels: int64 [n], the true option of each row.
    """

    probabilities: Floats
    num_options: Integers
    labels: Integers

    @property
    def confidences(self) -> Floats:
        """The probability of the predicted option, float64 [n]."""
        return self.probabilities.max(axis=1)

    @property
    def correct(self) -> Booleans:
        """Whether the predicted option is the label, bool [n]; of tied options the first counts."""
        return self.probabilities.argmax(axis=1) == self.labels

    def take(self, rows: Integers) -> "Predictions":
        """The rows at these places, int64 [m], without the columns that none of them uses."""
        counts = self.num_options[rows]
        width = counts.max(initial=0)
        return Predictions(self.probabilities[rows, :width], counts, self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)


def validate(
    probabilities: ArrayLike | Sequence[ArrayLike],
    labels: ArrayLike,
    num_options: ArrayLike | None = None,
) -> Predictions:
    """Check probabilities and labels, and bring them into one form.

    Probabilities are kept as given, not renormalised: a row may miss a sum of 1 by 1e-4 (what
    rounding in half precision or in a text file leaves), and a value within 1e-6 outside [0, 1]
    (rounding in float32) is set to the bound.

    Args:
        probabilities: [n, K] array, or a list of n rows which may have unequal lengths.
        labels: int [n], the index of the true option in its row.
        num_options: int [n], how many leading options of each row are real; the rest must have
            probability 0. Default: the length of the row.

    Returns:
        The checked predictions.

    Raises:
        InvalidPredictionsError: For NaN or infinity, logits, rows that do not sum to 1, fewer than
            two options, mass on padding, labels that are no integers or out of range for their
            row, unequal lengths, and no rows at all; `row` is the first row at fault.
    """
    padded, lengths = _pad(probabilities)
    counts = lengths if num_options is None else _integers(num_options, "num_options")
    truth = _integers(labels, "labels")
    for name, array in (("labels", truth), ("num_options", counts)):
        if len(array) != len(padded):
            raise InvalidPredictionsError(
                f"{len(padded)} rows of probabilities but {len(array)} {name}; give one per row"
            )
    _check_probabilities(padded)
    _check_options(padded, counts, lengths)
    _check_labels(truth, counts)
    return Predictions(np.clip(padded, 0.0, 1.0), counts, truth)


def _pad(probabilities: Any) -> tuple[Floats, Integers]:
    """Zero-padded float64 [n, K_max] and the length of each row, from an array or from rows."""
    if isinstance(probabilities, list | tuple):
        ragged = [_row(values, i) for i, values in enumerate(probabilities)]
        lengths = np.array([len(row) for row in ragged], dtype=np.int64)
        rows = np.zeros((len(ragged), max(lengths, default=0)))
        for target, row in zip(rows, ragged, strict=True):
            target[: len(row)] = row
    else:
        rows = _floats(probabilities, None)
        if rows.ndim != 2:
            raise InvalidPredictionsError(
                f"probabilities have {rows.ndim} dimension(s); give rows x options, "
                "for two classes both columns"
            )
        lengths = np.full(len(rows), rows.shape[1], dtype=np.int64)
    if len(rows) == 0:
        raise InvalidPredictionsError("there are no rows; a metric needs at least one")
    return rows, lengths


def _row(values: Any, index: int) -> Floats:
    row = _floats(values, index)
    if row.ndim != 1:
        raise InvalidPredictionsError("a row must be a list of probabilities, one an option", index)
    return row


def _floats(values: Any, row: int | None) -> Floats:
    try:
        if np.iscomplexobj(values):
            raise TypeError("complex numbers")
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidPredictionsError(f"probabilities are not numbers ({error})", row) from error


def _integers(values: ArrayLike, name: str) -> Integers:
    """The values as int64 [n]; floats, booleans and strings are refused, not rounded."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise InvalidPredictionsError(
            f"{name} have {array.ndim} dimensions; give one integer per row"
        )
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise InvalidPredictionsError(
            f"{name} are of type {array.dtype}, not integers, from {array[0]!r} on; "
            "give option indices as integers",
            row=0,
        )
    return array.astype(np.int64)


def _first(bad: Booleans | np.bool_) -> int | None:
    """The first row marked bad, if any."""
    return int(bad.argmax()) if bad.any() else None


def _check_probabilities(rows: Floats) -> None:
    if (row := _first(~np.isfinite(rows).all(axis=1))) is not None:
        raise InvalidPredictionsError("NaN or infinity among the probabilities", row)
    outside = (rows < -ROUNDING) | (rows > 1 + ROUNDING)
    if (row := _first(outside.any(axis=1))) is not None:
        value = rows[row][outside[row]][0]
        remedy = "exponentiate them" if (rows[row] <= 0).all() else "apply a softmax"
        guess = "log-probabilities" if (rows[row] <= 0).all() else "logits"
        raise InvalidPredictionsError(
            f"{value:.6g} is no probability; if these are {guess}, {remedy} first", row
        )
    totals = rows.sum(axis=1)
    if (row := _first(np.abs(totals - 1) > SUM_TOLERANCE)) is not None:
        raise InvalidPredictionsError(
            f"the probabilities sum to {totals[row]:.6g}, not 1; "
            "normalise the row, or apply a softmax if these are scores",
            row,
        )


def _check_options(rows: Floats, counts: Integers, lengths: Integers) -> None:
    if (row := _first(counts < 2)) is not None:
        raise InvalidPredictionsError(
            f"{counts[row]} option(s); a prediction chooses among at least two "
            "(for two classes give both columns)",
            row,
        )
    if (row := _first(counts > lengths)) is not None:
        raise InvalidPredictionsError(
            f"num_options is {counts[row]} but the row has {lengths[row]} probabilities", row
        )
    padding = np.arange(rows.shape[1]) >= counts[:, None]
    if (row := _first(((rows != 0) & padding).any(axis=1))) is not None:
        raise InvalidPredictionsError(
            f"probability beyond the row's {counts[row]} options; padding must be 0", row
        )


def _check_labels(labels: Integers, counts: Integers) -> None:
    if (row := _first((labels < 0) | (labels >= counts))) is not None:
        raise InvalidPredictionsError(
            f"label {labels[row]} is out of range: the row has {counts[row]} options, "
            f"so labels run from 0 to {counts[row] - 1}",
            row,
        )
