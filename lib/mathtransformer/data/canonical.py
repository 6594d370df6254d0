"""Canonical matrices: one matrix that stands for many equivalent ones.

Two matrices are equivalent if they differ by the order of rows and columns, by the signs of these, or (for inversion)
by transposition. The solution of one gives the solutions of all. A 3x3 matrix to invert has up to 2,304 equivalent
ones. A model that reads canonical matrices only has to learn one of them.

Where two numbers that decide the order are equal, or a zero decides a sign, several matrices of a class may come out
as canonical. Each has the right solution; the model may have to answer any of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Restore = Callable[[np.ndarray], np.ndarray]  # solutions of the canonical matrices -> solutions of those given


def sign(values: np.ndarray) -> np.ndarray:
    """-1 for negative numbers, 1 for all others."""
    return np.where(values < 0, -1.0, 1.0)


def unchanged(solutions: np.ndarray) -> np.ndarray:
    return solutions


def centred(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, n, n) -> M - cI, whose trace is 0, and c (N,): if M is symmetric, its mean eigenvalue."""
    shifts = np.trace(inputs, axis1=1, axis2=2) / inputs.shape[-1]
    return inputs - shifts[:, None, None] * np.eye(inputs.shape[-1]), shifts


def swap(arrays: np.ndarray, k: int, others: np.ndarray) -> None:
    """(N, n, ...): exchange, in place, item k of the second axis with item `others[i]` in example i."""
    every = np.arange(len(arrays))
    arrays[every, k], arrays[every, others] = arrays[every, others], arrays[every, k]


def canonical_matrices(inputs: np.ndarray, by: np.ndarray | None = None) -> tuple[np.ndarray, Restore]:
    """(N, n, n) -> canonical matrices (N, n, n) A, and what takes their inverses to the inverses of the inputs.

    The largest abs value of A is at (0, 0), that of the rows and columns that remain at (1, 1), and so on; no entry of
    the first row or column is negative; and A[0, n-1] is at least A[n-1, 0]. by: matrices (N, n, n) that decide all
    this in place of the inputs, which they are the rounded form of.
    """
    by = inputs if by is None else by
    n, pivoted = by.shape[-1], by.copy()
    rows = np.tile(np.arange(n), (len(by), 1))
    columns = rows.copy()
    for k in range(n - 1):
        largest = np.abs(pivoted[:, k:, k:]).reshape(-1, (n - k) ** 2).argmax(1)
        for order, axes, place in ((rows, pivoted, largest // (n - k)), (columns, pivoted.mT, largest % (n - k))):
            swap(axes, k, k + place)
            swap(order, k, k + place)
    column_signs = sign(pivoted[:, 0])
    row_signs = sign(pivoted[:, :, 0] * column_signs[:, :1])
    pivoted *= row_signs[:, :, None] * column_signs[:, None]
    turned = (pivoted[:, 0, -1] < pivoted[:, -1, 0])[:, None, None]
    every = np.arange(len(inputs))[:, None, None]

    def turn(arrays: np.ndarray) -> np.ndarray:
        return np.where(turned, arrays.mT, arrays)

    def restore(inverses: np.ndarray) -> np.ndarray:
        inverses = turn(inverses) * column_signs[:, :, None] * row_signs[:, None]
        restored = np.empty_like(inverses)
        restored[every, columns[:, :, None], rows[:, None]] = inverses
        return restored

    ordered = inputs[every, rows[:, :, None], columns[:, None]]
    return turn(ordered * row_signs[:, :, None] * column_signs[:, None]), restore


def canonical_symmetric(inputs: np.ndarray, by: np.ndarray | None = None) -> tuple[np.ndarray, Restore]:
    """(N, n, n) symmetric -> canonical matrices (N, n, n) A, and what takes their eigendecompositions to those of the
    inputs: (N, n+1, n), eigenvalues in row 0, which stay as they are, then the eigenvectors in columns.

    The diagonal of A descends, and no entry of its first row beside the diagonal is negative. by: as above.
    """
    by = inputs if by is None else by
    order = (-np.diagonal(by, axis1=1, axis2=2)).argsort(1, kind="stable")
    every = np.arange(len(inputs))[:, None]
    signs = sign(by[every, order[:, :1], order])
    signs[:, 0] = 1

    def restore(solutions: np.ndarray) -> np.ndarray:
        restored = solutions.copy()
        restored[every, 1 + order] = solutions[:, 1:] * signs[:, :, None]
        return restored

    ordered = inputs[every[..., None], order[:, :, None], order[:, None]]
    return ordered * signs[:, :, None] * signs[:, None], restore
