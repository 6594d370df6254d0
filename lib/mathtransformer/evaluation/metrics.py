"""Tables of how good predictions are: one set of functions for the training log, the tests and the notebooks.

The formulas of each task stand in data/tasks.py and data/measures.py. M is the matrix as decoded from its input
tokens, so inputs are expected rounded (`encodings.rounded`). A prediction with a NaN, one that does not decode, is
infinitely wrong.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from ..data.tasks import Task, get_task

TOLERANCES = (0.005, 0.01, 0.02, 0.05, 0.075, 0.10, 0.15, 0.20, 0.25)
NOT_ERRORS = ("cond_V", "cond_M", "gap")  # columns that no tolerance applies to


def properties(task: Task | str, inputs: np.ndarray, targets: np.ndarray, predictions: np.ndarray) -> pd.DataFrame:
    """One row an example: `error`, what is compared with the tolerance, and the task's other properties.

    inputs (N, n, n), targets and predictions (N, *target shape). eigenvectors: `eigenvalues` (relative error, as for
    that task), `norm`, `orthogonality`, `orthogonality_official` and `cond_V` of the predicted V; inversion:
    `inverse`, sum |P - M^-1| / sum |M^-1|. Predictions are judged as written: eigenvalues out of order are not sorted.
    A prediction with a NaN anywhere does not decode: all its columns are infinite, so that they count alike.
    """
    task = get_task(task) if isinstance(task, str) else task
    undecodable = np.isnan(predictions).any(tuple(range(1, predictions.ndim)))
    with np.errstate(all="ignore"):
        columns = {"error": task.error(inputs, targets, predictions), **task.properties(inputs, targets, predictions)}
    return pd.DataFrame(
        {name: np.where(undecodable | np.isnan(values), np.inf, values) for name, values in columns.items()}
    )


def problem_properties(task: Task | str, inputs: np.ndarray) -> pd.DataFrame:
    """One row an example: what is known before solving, `cond_M` and for symmetric M `gap`."""
    return pd.DataFrame((get_task(task) if isinstance(task, str) else task).problem_properties(inputs))


def proportion(successes: int, n: int) -> dict[str, float]:
    """A proportion with its 95 % Wilson interval: {"n", "proportion", "low", "high"}; NaN for n = 0."""
    if n == 0:
        return {"n": 0, "proportion": np.nan, "low": np.nan, "high": np.nan}
    low, high = stats.binomtest(int(successes), int(n)).proportion_ci(method="wilson")
    return {"n": int(n), "proportion": successes / n, "low": low, "high": high}


def within(table: pd.DataFrame, columns=None, tolerances=TOLERANCES) -> pd.DataFrame:
    """Share of the rows below each tolerance: property, tolerance, correct, n, proportion, low, high (95 %)."""
    columns = [name for name in table.columns if name not in NOT_ERRORS] if columns is None else columns
    counts = [(name, tolerance, int((table[name] < tolerance).sum())) for name in columns for tolerance in tolerances]
    rows = [{"property": name, "tolerance": t, "correct": k, **proportion(k, len(table))} for name, t, k in counts]
    return pd.DataFrame(rows)
