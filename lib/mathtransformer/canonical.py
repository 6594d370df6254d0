"""Canonical matrices: one for all that differ by the order of rows and columns, by their signs, or by transposition.

From the inverse of one of these follow the inverses of all, and so for eigenvectors, if rows and columns go together.
A model that reads nothing but canonical matrices need not learn 2,304 times over (in as many ways can a 3x3 matrix be
changed so) what is the same but for a permutation and signs. Where two of the numbers that decide the order are equal,
or the sign of a zero decides, there are several canonical matrices: the model must learn them all, and answers to any
of them are right.
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


def swap(arrays: np.ndarray, k: int, others: np.ndarray) -> None:
    """(N, n, ...): exchange, in place, item k of the second axis with item `others[i]` in example i."""
    every = np.arange(len(arrays))
    arrays[every, k], arrays[every, others] = arrays[every, others], arrays[every, k]


def canonical_matrices(inputs: np.ndarray) -> tuple[np.ndarray, Restore]:
    """(N, n, n) -> canonical matrices (N, n, n) A, and what takes their inverses to the inverses of the inputs.

    The largest abs value of A is at (0, 0), that of the rows and columns that remain at (1, 1), and so on; no entry of
    the first row or column is negative; and A[0, n-1] is at least A[n-1, 0].
    """
    n, matrices = inputs.shape[-1], inputs.copy()
    rows = np.tile(np.arange(n), (len(inputs), 1))
    columns = rows.copy()
    for k in range(n - 1):
        largest = np.abs(matrices[:, k:, k:]).reshape(-1, (n - k) ** 2).argmax(1)
        for order, axes, place in ((rows, matrices, largest // (n - k)), (columns, matrices.mT, largest % (n - k))):
            swap(axes, k, k + place)
            swap(order, k, k + place)
    column_signs = sign(matrices[:, 0])
    row_signs = sign(matrices[:, :, 0] * column_signs[:, :1])
    matrices *= row_signs[:, :, None] * column_signs[:, None]
    turned = (matrices[:, 0, -1] < matrices[:, -1, 0])[:, None, None]

    def turn(arrays: np.ndarray) -> np.ndarray:
        return np.where(turned, arrays.mT, arrays)

    def restore(inverses: np.ndarray) -> np.ndarray:
        inverses = turn(inverses) * column_signs[:, :, None] * row_signs[:, None]
        restored = np.empty_like(inverses)
        every = np.arange(len(inverses))[:, None, None]
        restored[every, columns[:, :, None], rows[:, None]] = inverses
        return restored

    return turn(matrices), restore


def canonical_symmetric(inputs: np.ndarray) -> tuple[np.ndarray, Restore]:
    """(N, n, n) symmetric -> canonical matrices (N, n, n) A, and what takes their eigendecompositions to those of the
    inputs: (N, n+1, n), eigenvalues in row 0, which stay as they are, then the eigenvectors in columns.

    The diagonal of A descends, and no entry of its first row beside the diagonal is negative.
    """
    order = (-np.diagonal(inputs, axis1=1, axis2=2)).argsort(1, kind="stable")
    every = np.arange(len(inputs))[:, None]
    matrices = inputs[every[..., None], order[:, :, None], order[:, None]]
    signs = sign(matrices[:, 0])
    signs[:, 0] = 1

    def restore(solutions: np.ndarray) -> np.ndarray:
        restored = solutions.copy()
        restored[every, 1 + order] = solutions[:, 1:] * signs[:, :, None]
        return restored

    return matrices * signs[:, :, None] * signs[:, None], restore
