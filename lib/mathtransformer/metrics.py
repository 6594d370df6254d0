"""How predictions are judged: one set of functions for the training log, the tests and the notebooks.

Formulas: Charton 2022 and its analysis code. M is the matrix as decoded from its input tokens, so inputs are
expected rounded (`evaluation.rounded`); targets are of the matrix before it was rounded, as in the paper.
A prediction with a NaN, one that does not decode, is infinitely wrong.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from .problems import get_task, relative

TOLERANCES = (0.005, 0.01, 0.02, 0.05, 0.075, 0.10, 0.15, 0.20, 0.25)


def worst(values: np.ndarray) -> np.ndarray:
    """(N, ...) -> (N,) largest entry, infinite where any is NaN."""
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    return np.nan_to_num(flat.max(1, initial=0.0), nan=np.inf)


def condition_number(matrices: np.ndarray) -> np.ndarray:
    """(N, n, n) -> (N,) largest over smallest singular value; infinite for singular or non-finite matrices."""
    finite = np.isfinite(matrices).all((1, 2))
    singular_values = np.linalg.svd(np.where(finite[:, None, None], matrices, 0.0), compute_uv=False)
    with np.errstate(all="ignore"):
        ratio = singular_values[:, 0] / singular_values[:, -1]
    return np.where(finite & ~np.isnan(ratio), ratio, np.inf)


def norm_error(vectors: np.ndarray) -> np.ndarray:
    """(N, n, n) -> (N,) largest |norm - 1| over all rows and all columns."""
    norms = np.concatenate([np.linalg.norm(vectors, axis=1), np.linalg.norm(vectors, axis=2)], axis=1)
    return worst(np.abs(norms - 1))


def orthogonality(vectors: np.ndarray) -> np.ndarray:
    """(N, n, n) -> (N,) largest |cosine| between two rows or two columns, over every pair."""
    n = vectors.shape[-1]
    cosines = []
    for v in (vectors, vectors.transpose(0, 2, 1)):
        unit = v / np.linalg.norm(v, axis=2, keepdims=True)
        cosines.append(np.abs(unit @ unit.transpose(0, 2, 1)) * (1 - np.eye(n)))
    return worst(np.stack(cosines, 1))


def orthogonality_adjacent(vectors: np.ndarray) -> np.ndarray:
    """The official notebook's variant: |<v_i, v_(i+1)>| / |v_i| over cyclically adjacent rows and columns only.

    The second vector is not normalised there, an oversight that is kept here to compare with its numbers.
    """
    if vectors.shape[-1] == 1:
        return worst(0 * vectors)
    products = []
    for v in (vectors, vectors.transpose(0, 2, 1)):
        products.append(np.abs((v * np.roll(v, -1, axis=1)).sum(2)) / np.linalg.norm(v, axis=2))
    return worst(np.stack(products, 1))


def problem_properties(task: str, inputs: np.ndarray) -> pd.DataFrame:
    """What is known before solving: `cond_M`, the condition number of M, and for symmetric M `gap`, the smallest
    distance between two eigenvalues over the largest |eigenvalue|."""
    columns = {"cond_M": condition_number(inputs)}
    if get_task(task).symmetric:
        eigenvalues = np.linalg.eigvalsh(inputs)
        with np.errstate(all="ignore"):
            gaps = np.diff(eigenvalues, axis=1).min(1, initial=np.inf) / np.abs(eigenvalues).max(1, initial=0)
        columns["gap"] = np.nan_to_num(gaps, nan=0.0, posinf=np.inf)
    return pd.DataFrame(columns)


def properties(task: str, inputs: np.ndarray, targets: np.ndarray, predictions: np.ndarray) -> pd.DataFrame:
    """One row an example: `error`, what is compared with the tolerance, and the properties that the paper looks at.

    eigenvectors: `eigenvalues` (relative error, as for that task), `norm`, `orthogonality`, `orthogonality_adjacent`
    and `cond_V` of the predicted V; inversion: `inverse`, sum |P - M^-1| / sum |M^-1|.
    A prediction with a NaN anywhere does not decode: all its columns are infinite, so that they count alike.
    """
    undecodable = np.isnan(predictions).any(tuple(range(1, predictions.ndim)))
    columns = {"error": get_task(task).error(inputs, targets, predictions)}
    with np.errstate(all="ignore"):
        if task == "eigenvectors":
            vectors = predictions[:, 1:]
            columns["eigenvalues"] = relative(predictions[:, 0] - targets[:, 0], targets[:, 0])
            columns["norm"] = norm_error(vectors)
            columns["orthogonality"] = orthogonality(vectors)
            columns["orthogonality_adjacent"] = orthogonality_adjacent(vectors)
            columns["cond_V"] = condition_number(vectors)
        if task == "inversion":
            columns["inverse"] = relative(predictions - targets, targets)
    return pd.DataFrame(
        {name: np.where(undecodable | np.isnan(values), np.inf, values) for name, values in columns.items()}
    )


def proportion(successes: int, n: int, level: float = 0.95) -> dict[str, float]:
    """A proportion with its Wilson interval: {"n", "proportion", "low", "high"}; NaN for n = 0."""
    if n == 0:
        return {"n": 0, "proportion": np.nan, "low": np.nan, "high": np.nan}
    test = stats.binomtest(int(successes), int(n))
    low, high = test.proportion_ci(level, method="wilson")
    return {"n": int(n), "proportion": successes / n, "low": low, "high": high}


def within(table: pd.DataFrame, columns=None, tolerances=TOLERANCES) -> pd.DataFrame:
    """Share of the rows below each tolerance: property, tolerance, correct, n, proportion, low, high (95 %)."""
    if columns is None:
        columns = [name for name in table.columns if name not in ("cond_V", "cond_M", "gap")]
    rows = []
    for name in columns:
        for tolerance in tolerances:
            correct = int((table[name] < tolerance).sum())
            share = proportion(correct, len(table))
            rows.append({"property": name, "tolerance": tolerance, "correct": correct, **share})
    return pd.DataFrame(rows)
