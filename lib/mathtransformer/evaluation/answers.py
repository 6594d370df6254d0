"""What a model answers, and the fresh problems it is asked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from ..data.encodings import rounded
from ..data.tasks import Task, draw
from ..model.transformer import Transformer
from .metrics import properties

TEST_SEED = 1_000_000  # of the problems that a training is judged on as it goes; no training draws from it


@torch.no_grad()
def answer(model: Transformer, inputs: np.ndarray, batch: int = 1000) -> np.ndarray:
    """(N, n, n) matrices -> (N, *target shape) float64 predictions, NaN where one does not decode.

    Always in single precision. Even so, where two tokens are almost equally likely, the answer may depend on the
    processor and on the size of the batch: tests allow for one answer in a hundred.
    """
    if not len(inputs):
        return np.empty((0, *model.asked))
    ids, _, restore = model.ids(inputs)
    device = next(model.parameters()).device
    parts = [model.generate(part.to(device)).cpu().numpy() for part in ids.split(batch)]
    return restore(model.writer.encoding.decode(np.concatenate(parts)))


def largest_entry(matrices: np.ndarray) -> np.ndarray:
    """(N, n, n) -> (N,) magnitude of the largest entry."""
    return np.abs(matrices).max((1, 2), initial=0)


def answer_at_any_scale(model: Transformer, inputs: np.ndarray, usual: np.ndarray, batch: int = 1000) -> np.ndarray:
    """As `answer`, of matrices on any scale that FP15 holds: one larger or smaller than most that a model has seen is
    brought to their middle.

    usual: the largest entries of matrices like those that the model was trained on. Matrices between their 5 % and
    95 % quantiles are read as they are; the others multiplied so that the largest entry is the median, and their
    solutions changed back. Numbers are rounded first, so that M and rounded M are answered
    alike, and again after scaling.
    """
    low, middle, high = np.quantile(usual, (0.05, 0.5, 0.95))
    matrices = rounded(inputs, model.options.reads)
    largest = largest_entry(matrices)
    factors = np.where(
        ((largest >= low) & (largest <= high)) | (largest == 0), 1.0, middle / np.maximum(largest, 1e-99)
    )
    return model.task.rescaled(answer(model, matrices * factors[:, None, None], batch), factors)


def test_set(
    task: Task, size: int, n: int, spectrum: str = "semicircle", entries: str = "uniform", seed: int = TEST_SEED
) -> tuple[np.ndarray, np.ndarray]:
    """n fresh problems: (inputs rounded to their tokens, targets of the matrices before rounding, as in the paper).

    Trainings draw from generators seeded by (seed, block), test sets from (seed, 0, size).
    """
    inputs = draw(task, size, n, np.random.default_rng([seed, 0, size]), spectrum, entries)
    return rounded(inputs), np.ascontiguousarray(task.solve(inputs))


test_set.__test__ = False  # pytest: this is no test


def judge(model: Transformer, inputs: np.ndarray, targets: np.ndarray) -> pd.DataFrame:
    """`metrics.properties` of the model's answers, one row a problem."""
    return properties(model.task, inputs, targets, answer(model, inputs))
