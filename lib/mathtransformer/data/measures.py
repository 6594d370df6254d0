"""Formulas that judge a solution or describe a problem, each for a batch of N.

Source: Charton 2022 (arXiv 2211.00170) and its analysis code. What cannot be computed comes out infinite, so that it
counts as wrong.
"""

from __future__ import annotations

import numpy as np


def total(array: np.ndarray) -> np.ndarray:
    """(N, ...) -> (N,) sums of absolute values."""
    return np.abs(array).reshape(len(array), -1).sum(1) if len(array) else np.zeros(0)


def relative(difference: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(N, ...), (N, ...) -> (N,) sum |difference| / sum |scale|; no difference is no error, even on a scale of zero."""
    difference, scale = total(difference), total(scale)
    with np.errstate(all="ignore"):
        return np.where(difference == 0, 0.0, difference / scale)


def least_error(matrices: np.ndarray, eigenvalues: np.ndarray) -> np.ndarray:
    """Symmetric (N, n, n), what may be their eigenvalues (N, n) -> (N,) a lower bound of the relative error of these,
    so that a small one is **necessary, not sufficient**.

    Both |tr M - sum| and ||M|_F - sqrt(sum of squares)| are at most d = sum |eigenvalue - true|, since two vectors'
    lengths differ by no more than their distance. With x the larger, d / sum |true| >= x / (sum |eigenvalue| + x).
    """
    trace = np.abs(np.trace(matrices, axis1=1, axis2=2) - eigenvalues.sum(1))
    length = np.abs(np.linalg.norm(matrices, axis=(1, 2)) - np.linalg.norm(eigenvalues, axis=1))
    most = np.maximum(trace, length)
    return np.where(most == 0, 0.0, most / (total(eigenvalues) + most))


def worst(values: np.ndarray) -> np.ndarray:
    """(N, ...) -> (N,) largest entry, infinite where any is NaN."""
    return np.nan_to_num(values.max(tuple(range(1, values.ndim)), initial=0.0), nan=np.inf)


def condition_number(matrices: np.ndarray) -> np.ndarray:
    """(N, n, n) -> (N,) largest over smallest singular value; infinite for singular or non-finite matrices."""
    finite = np.isfinite(matrices).all((1, 2), keepdims=True)
    return np.linalg.cond(np.where(finite, matrices, 0.0))  # of zeros: infinite


def relative_gap(matrices: np.ndarray) -> np.ndarray:
    """(N, n, n) symmetric -> (N,) smallest distance of two eigenvalues over the largest |eigenvalue|; 1x1: infinite."""
    eigenvalues = np.linalg.eigvalsh(matrices)
    with np.errstate(all="ignore"):
        gaps = np.diff(eigenvalues, axis=1).min(1, initial=np.inf) / np.abs(eigenvalues).max(1, initial=0)
    return np.nan_to_num(gaps, nan=0.0, posinf=np.inf)


def norm_error(vectors: np.ndarray) -> np.ndarray:
    """(N, n, n) -> (N,) largest |norm - 1| over all rows and all columns."""
    norms = np.concatenate([np.linalg.norm(vectors, axis=1), np.linalg.norm(vectors, axis=2)], axis=1)
    return worst(np.abs(norms - 1))


def orthogonality(vectors: np.ndarray) -> np.ndarray:
    """(N, n, n) -> (N,) largest |cosine| between two rows or two columns, over every pair."""
    both = np.stack([vectors, vectors.mT], axis=1)
    unit = both / np.linalg.norm(both, axis=3, keepdims=True)
    return worst(np.abs(unit @ unit.mT) * (1 - np.eye(vectors.shape[-1])))


def orthogonality_official(vectors: np.ndarray) -> np.ndarray:
    """(N, n, n) -> (N,) the measure of the official notebook, which sees rows only, and not all pairs of them.

    The largest |cosine| of cyclically adjacent rows (row i with row i + 1, the last with the first), or the |product|,
    not normalised, of the first and the last row, whichever is larger.
    """
    if vectors.shape[-1] == 1:
        return worst(0 * vectors)
    following, lengths = np.roll(vectors, -1, axis=1), np.linalg.norm(vectors, axis=2)
    products = (vectors * following).sum(2)
    cosines = products / (lengths * np.roll(lengths, -1, axis=1))
    return worst(np.abs(np.concatenate([cosines, products[:, -1:]], axis=1)))
