"""What failures are compared with: answers to a noisy matrix.

Source: first-order perturbation theory of symmetric matrices, Stewart and Sun, Matrix Perturbation Theory (1990). With
M v_i = lambda_i v_i, M + E has the eigenvalues lambda_i + v_i^T E v_i and the eigenvectors
v_i + sum_j v_j (v_j^T E v_i) / (lambda_i - lambda_j).
"""

from __future__ import annotations

import numpy as np

from ..data.canonical import sign
from ..data.tasks import get_task


def symmetric_noise(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(N, n) -> (N, n, n) random symmetric E without a preferred direction: v^T E v has standard deviation 1 for any
    unit vector v, and v^T E w has 1 / sqrt(2) for any w orthogonal to it (the Gaussian orthogonal ensemble)."""
    count, n = shape
    normal = rng.normal(size=(count, n, n))
    return (normal + normal.mT) / 2


def noisy_eigenvectors(matrices: np.ndarray, size: float, rng: np.random.Generator, shared: bool) -> np.ndarray:
    """(N, n, n) -> (N, n + 1, n) eigendecompositions, as the task writes them, of M + size * E.

    shared: one E for the whole decomposition; else another one for each eigenvector with its eigenvalue.
    """
    solve = get_task("eigenvectors").solve
    answers = solve(matrices + size * symmetric_noise(matrices.shape[:2], rng))
    for k in () if shared else range(1, matrices.shape[-1]):
        answers[..., k] = solve(matrices + size * symmetric_noise(matrices.shape[:2], rng))[..., k]
    return answers


def mixing(inputs: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each predicted eigenvector has of the true ones: (coefficients, gaps), each (N, n, n).

    inputs (N, n, n), predictions (N, n + 1, n) as of the task eigenvectors. coefficients[:, j, i] = <v_j, predicted
    v_i>, with the sign that makes <v_i, predicted v_i> positive; gaps[:, j, i] = lambda_i - lambda_j.
    """
    solution = get_task("eigenvectors").solve(inputs)
    eigenvalues, vectors = solution[:, 0], solution[:, 1:]
    coefficients = vectors.mT @ predictions[:, 1:]
    turned = sign(np.diagonal(coefficients, axis1=1, axis2=2))
    return coefficients * turned[:, None], eigenvalues[:, None] - eigenvalues[:, :, None]
