"""From a model to numbers: what can be asked, predictions for many matrices, and the test sets that judge them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from .canonical import unchanged
from .encodings import as_array, as_float64, encoding
from .metrics import properties
from .model import Transformer
from .problems import MAX_SIZE, get_task, sample, whole_number


def rounded(inputs: np.ndarray) -> np.ndarray:
    """Numbers as the model sees them: three significant digits, through FP15 and back."""
    fp15 = encoding("FP15")
    return fp15.decode(fp15.encode(inputs))


def check_inputs(task: str, inputs, limit: float = 9.995e8) -> np.ndarray:
    """(N, n, n) float64 matrices fit for a task, or a ValueError or TypeError naming the problem and example."""
    array = as_array(inputs, "matrices of real numbers")
    if array.ndim != 3 or array.shape[1] != array.shape[2]:
        hint = "; for a single matrix M, pass M[None]" if array.ndim == 2 else ""
        raise ValueError(f"matrices of shape (N, n, n) expected, got {array.shape}{hint}")
    whole_number("the size of the matrices", array.shape[1], 1, MAX_SIZE)
    array = as_float64(array)
    problems = {
        "NaN or infinity": ~np.isfinite(array).all((1, 2)),
        f"an entry of magnitude {limit:g} or more": (np.abs(array) >= limit).any((1, 2)),
    }
    if get_task(task).symmetric:
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.abs(array - array.transpose(0, 2, 1)).max((1, 2), initial=0)
            largest = np.abs(array).max((1, 2), initial=0)
            problems["a difference between M and its transpose"] = difference > 1e-6 * largest
    for problem, where in problems.items():
        if where.any():
            raise ValueError(f"example {int(np.flatnonzero(where)[0])} has {problem}: {task} cannot take it")
    return array


def answer(model: Transformer, inputs: np.ndarray, batch: int = 1000) -> np.ndarray:
    """(N, n, n) matrices -> (N, *target shape) float64 predictions, NaN where one does not decode.

    Always in single precision, so that predictions hardly depend on the processor.
    """
    matrices, restore = model.task.canonical(inputs) if model.options.canonical_input else (inputs, unchanged)
    device = next(model.parameters()).device
    ids = torch.from_numpy(encoding("FP15").encode(matrices)[..., 0])
    parts = [model.generate(part.to(device)).cpu().numpy() for part in ids.split(batch)] if len(ids) else []
    return restore(model.written.decode(np.concatenate(parts))) if parts else np.empty((0, *model.asked))


def test_set(config, n: int, seed: int = 1_000_000, spectrum: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """n fresh problems: (inputs rounded to their tokens, targets). No training draws from this seed.

    Trainings draw from generators seeded by (seed, block), test sets from (seed, 0, size).
    """
    rng = np.random.default_rng([seed, 0, config.size])
    inputs, targets = sample(config.task, config.size, n, rng, spectrum or config.spectrum, config.entries)
    return rounded(inputs), targets


def judge(model: Transformer, task: str, inputs: np.ndarray, targets: np.ndarray) -> pd.DataFrame:
    """`metrics.properties` of the model's predictions, one row a problem."""
    return properties(task, inputs, targets, answer(model, inputs))
