"""Arguments refused by name: a check returns a clean value, or raises an error that says what to do."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable

import numpy as np


def check_name(what: str, name, allowed: Iterable[str]) -> None:
    """ValueError, with the near matches, unless `name` is one of `allowed`."""
    allowed = list(allowed)
    if isinstance(name, str) and name in allowed:
        return
    near = difflib.get_close_matches(str(name), allowed, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(f"unknown {what} {name!r:.80}: {hint}known: {', '.join(allowed)}")


def whole_number(what: str, value, low: int, high: int | None = None) -> int:
    """`value` as an int from `low` to `high`; TypeError or ValueError for anything else."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be a whole number, got {value!r:.80}") from None
    if number < low or (high is not None and number > high):
        span = f"from {low} to {high}" if high is not None else f"at least {low}"
        raise ValueError(f"{what} must be {span}, got {number}")
    return number


def as_array(values, expected: str, kinds: str = "iuf") -> np.ndarray:
    """Lists, DataFrames, tensors, arrays as an array of one of NumPy's `kinds`; TypeError or ValueError for others."""
    try:
        if hasattr(values, "detach"):  # a torch tensor, whose bfloat16 or gradient NumPy would refuse
            values = values.detach().cpu()
            values = values.double() if values.is_floating_point() else values
        array = np.asarray(values)
    except Exception as error:  # whatever an object's own conversion raises
        kind = ValueError if isinstance(error, ValueError) else TypeError
        reason = str(error).partition("\n")[0]
        raise kind(f"{expected} expected, got {type(values).__name__}: {reason}") from None
    if array.size == 0 and array.dtype == object:
        array = array.astype(np.float64)
    if array.dtype.kind not in kinds:
        held = f" ({', '.join(sorted({type(item).__name__ for item in array.flat}))})" if array.dtype == object else ""
        raise TypeError(f"{expected} expected, got an array of {array.dtype}{held}")
    with np.errstate(over="ignore"):  # a long double beyond the range becomes infinite, and is refused as that
        return array.astype(np.float64, copy=False) if array.dtype.kind == "f" else array


def as_numbers(values) -> np.ndarray:
    """Any array-like of real finite numbers as float64; TypeError or ValueError names what is wrong, and where."""
    array = as_array(values, "numbers").astype(np.float64, copy=False)
    if not np.isfinite(array).all():
        index = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"cannot encode {array.flat[index]} (at flat index {index}): only finite numbers have tokens")
    return array


def as_matrices(inputs, symmetric: bool, limit: float, largest_size: int) -> np.ndarray:
    """(N, n, n) array-like -> float64 matrices that can be read: finite, below `limit`, symmetric if they must be.

    Raises TypeError for what is not real numbers; ValueError naming the first unfit example for the rest.
    """
    array = as_array(inputs, "matrices of real numbers").astype(np.float64, copy=False)
    if array.ndim != 3 or array.shape[1] != array.shape[2]:
        hint = "; for a single matrix M, pass M[None]" if array.ndim == 2 else ""
        raise ValueError(f"matrices of shape (N, n, n) expected, got {array.shape}{hint}")
    whole_number("the size of the matrices", array.shape[1], 1, largest_size)
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.abs(array).max((1, 2), initial=0)
        problems = {
            "has NaN or infinity": ~np.isfinite(array).all((1, 2)),
            f"has an entry of magnitude {limit:g} or more": largest >= limit,
            "has a difference between M and its transpose": symmetric
            & (np.abs(array - array.mT).max((1, 2), initial=0) > 1e-6 * largest),
        }
    for problem, where in problems.items():
        if where.any():
            raise ValueError(f"example {int(np.flatnonzero(where)[0])} {problem}")
    return array
