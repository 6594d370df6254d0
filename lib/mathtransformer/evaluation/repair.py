"""Answers checked, and improved, without the right ones: what `Run.solve` is made of.

N problems at a time: inputs (N, n, n) are M, answers (N, *target shape) as `Run.predict` gives them. Floating-point
operations, about, by the counts of Golub and Van Loan (Matrix Computations), whose direct way to the exact solution
takes 9 n^3 for an eigendecomposition and 2 n^3 for an inverse:
    residual  6 n^3 (eigenvectors), 2 n^3 (inversion)
    polar     eigenvectors, 25 n^3: V's nearest orthogonal matrix, by SVD
    refine    eigenvectors, 10 n^3: the iteration of Ogita and Aishima
    jacobi    eigenvectors, 40 n^3: polar, then one sweep of Jacobi's rotations
    newton    inversion, 4 n^3: the iteration of Newton and Schulz
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np

from ..data.tasks import Task


def residual(task: Task, inputs: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """(N,) how far answers are from solving their problems, from M alone; infinite for one that has a NaN. Formulas:
    `measures.least_error`, `Eigenvectors.residual`, `Inversion.residual`."""
    with np.errstate(all="ignore"):
        found = task.residual(inputs, answers)
    return np.where(np.isnan(found), np.inf, found)


def decomposition(inputs: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Answers (N, n+1, n) with these eigenvectors (N, n, n) in columns and their Rayleigh quotients v^T M v / v^T v."""
    values = (vectors * (inputs @ vectors)).sum(1) / (vectors**2).sum(1)
    return np.take_along_axis(np.concatenate([values[:, None], vectors], axis=1), values.argsort(1)[:, None], 2)


def polar(inputs: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """The orthogonal matrix nearest to V: U W^T, where V = U S W^T is the SVD (Fan and Hoffman 1955)."""
    left, _, right = np.linalg.svd(answers[:, 1:])
    return decomposition(inputs, left @ right)


def refine(inputs: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """A step of Ogita and Aishima's refinement (Japan J. Indust. Appl. Math. 35, 2018, algorithm 1): quadratic from a V
    that is near; the eigenvectors of two eigenvalues nearer than a threshold are made orthogonal, no more."""
    vectors, one = answers[:, 1:], np.eye(inputs.shape[-1])
    R, S = one - vectors.mT @ vectors, vectors.mT @ inputs @ vectors
    values = np.diagonal(S, axis1=1, axis2=2) / (1 - np.diagonal(R, axis1=1, axis2=2))
    off, size, skew = (np.linalg.norm(a, axis=(1, 2)) for a in (S - values[:, None] * one, inputs, R))
    gaps = values[:, None] - values[:, :, None]
    apart = np.abs(gaps) > 2 * (off + size * skew)[:, None, None]  # with Frobenius norms; the source has 2-norms
    correction = np.where(apart, (S + values[:, None] * R) / np.where(apart, gaps, 1), R / 2)
    return decomposition(inputs, vectors + vectors @ correction)


def jacobi(inputs: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """`polar`, then a cyclic sweep of Jacobi's rotations (Golub and Van Loan, section 8.5), each of which makes an
    entry of S = V^T M V zero. It converges from any V, quadratically in the end."""
    n, vectors = inputs.shape[-1], polar(inputs, answers)[:, 1:]
    both = np.concatenate([vectors.mT @ inputs @ vectors, vectors], axis=1)  # S, and V below it
    for p, q in combinations(range(n), 2):
        twice, apart = 2 * both[:, p, q], both[:, q, q] - both[:, p, p]
        angle = np.arctan2(np.where(apart < 0, -twice, twice), np.abs(apart)) / 2  # at most 45 degrees
        c, s = np.cos(angle), np.sin(angle)
        turn = np.stack([c, s, -s, c], axis=1).reshape(-1, 2, 2)
        both[:, :, [p, q]] = both[:, :, [p, q]] @ turn
        both[:, [p, q]] = turn.mT @ both[:, [p, q]]
    return decomposition(inputs, both[:, n:])


def newton(inputs: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """X (2I - MX), of Schulz (1933). I - MX becomes its own square: good if it is small, bad if it is large."""
    return answers @ (2 * np.eye(inputs.shape[-1]) - inputs @ answers)


REPAIRS: dict[str, dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "eigenvalues": {},
    "eigenvectors": {"polar": polar, "refine": refine, "jacobi": jacobi},
    "inversion": {"newton": newton},
}
