"""Problems solved with a check: what is not right is repaired, and asked again as an equivalent problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..checks import check_name
from ..data.canonical import Restore, centred
from ..data.tasks import Task
from .repair import REPAIRS, residual


class Solved(NamedTuple):
    """Answers (N, *target shape), how far each is from solving its problem (N,), whether that is within the tolerance
    (N,), and how many answers the model gave for it (N,)."""

    answers: np.ndarray
    residual: np.ndarray
    ok: np.ndarray
    asked: np.ndarray


def signed_orders(inputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, n, n) random permutation matrices with random signs."""
    n = inputs.shape[-1]
    orders = rng.permuted(np.tile(np.arange(n), (len(inputs), 1)), axis=1)
    return np.eye(n)[orders] * rng.choice([-1.0, 1.0], (len(inputs), n, 1))


def view(
    task: Task, inputs: np.ndarray, largest: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, Restore]:
    """Random problems (N, n, n) equivalent to the inputs, and what takes their solutions to those of the inputs.

    Rows and columns have another order and other signs; the largest entry lies anywhere between those of `largest`;
    half of the matrices are negated or, if not symmetric, transposed. Half of the symmetric ones are M - cI, with c the
    mean eigenvalue. A model that reads canonical matrices sees nothing but scale, negation and shift.
    """
    left = signed_orders(inputs, rng)
    right = left.mT if task.symmetric else signed_orders(inputs, rng)
    shifts = np.zeros(len(inputs))
    if task.symmetric:
        moved, shifts = centred(inputs)
        shifts *= rng.random(len(inputs)) < 0.5
        inputs = np.where(shifts[:, None, None] == 0, inputs, moved)
    now = np.abs(inputs).max((1, 2), initial=0)
    factors = rng.uniform(*largest, len(inputs)) / np.where(now == 0, 1.0, np.maximum(now, 1e-99))
    half = rng.random((len(inputs), 1)) < 0.5
    matrices = left @ inputs @ right * factors[:, None, None]
    if not task.symmetric:

        def transposed(arrays: np.ndarray) -> np.ndarray:
            return np.where(half[:, None], arrays.mT, arrays)

        return transposed(matrices), lambda solutions: task.rescaled(
            task.turned(transposed(solutions), left, right), factors
        )

    sign = np.where(half[:, 0], -1.0, 1.0)

    def restore(solutions: np.ndarray) -> np.ndarray:
        negated = half.reshape(-1, *[1] * (solutions.ndim - 1))
        solutions = np.where(negated, solutions[..., ::-1], solutions)  # in the order of the eigenvalues
        return task.shifted(task.turned(task.rescaled(solutions, factors * sign), left, right), shifts)

    return matrices * sign[:, None, None], restore


def solve(task: Task, inputs: np.ndarray, ask: Callable, tolerance: float, tries: int, repair: Sequence[str]) -> Solved:
    """ask(matrices (m, n, n), number of the try) -> answers. See `Run.solve`."""
    check_name("task that can be checked", task.name, REPAIRS)
    for name in repair:
        check_name(f"repair of {task.name}", name, REPAIRS[task.name])
    answers = np.full((len(inputs), *task.target_shape(inputs.shape[-1])), np.nan)
    errors, asked = np.full(len(inputs), np.inf), np.zeros(len(inputs), int)

    def keep_better(where: np.ndarray, found: np.ndarray) -> None:
        new = residual(task, inputs[where], found)
        better = (new < errors[where]) | (asked[where] == 0)
        answers[where[better]], errors[where[better]] = found[better], new[better]

    for attempt in range(tries):
        where = np.flatnonzero(~(errors < tolerance))
        keep_better(where, ask(inputs[where], attempt))
        asked[where] += 1
        where = np.flatnonzero(~(errors < tolerance))
        current = answers[where]
        for name in repair:  # a step may lead through worse answers to better ones
            going = ~(errors[where] < tolerance) & np.isfinite(current).all(tuple(range(1, current.ndim)))
            where, current = where[going], current[going]
            with np.errstate(all="ignore"):
                current = REPAIRS[task.name][name](inputs[where], current)
            keep_better(where, current)
    return Solved(answers, errors, errors < tolerance, asked)
