"""What a model answers, how sure it is of that, and the fresh problems it is asked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ..data.canonical import Restore, centred, unchanged
from ..data.encodings import rounded
from ..data.tasks import Task, draw
from ..model.transformer import Transformer
from .metrics import properties

TEST_SEED = 1_000_000  # of the problems that a training is judged on as it goes; no training draws from it


@torch.no_grad()
def answer(model: Transformer, inputs: np.ndarray, batch: int = 250, usual: np.ndarray | None = None) -> np.ndarray:
    """(N, n, n) matrices -> (N, *target shape) float64 predictions, NaN where one does not decode.

    usual: see `simplified`.
    Always in single precision. Even so, where two tokens are almost equally likely, the answer may depend on the
    processor and on the size of the batch: tests allow for one answer in a hundred.
    """
    if not len(inputs):
        return np.empty((0, *model.asked))
    inputs, changed_back = simplified(model, inputs, usual)
    ids, _, restore = model.ids(inputs)
    device = next(model.parameters()).device
    parts = [model.generate(part.to(device)).cpu().numpy() for part in ids.split(batch)]
    return changed_back(restore(model.writer.encoding.decode(np.concatenate(parts))))


def largest_entry(matrices: np.ndarray) -> np.ndarray:
    """(N, n, n) -> (N,) magnitude of the largest entry."""
    return np.abs(matrices).max((1, 2), initial=0)


def simplified(model: Transformer, inputs: np.ndarray, usual: np.ndarray | None) -> tuple[np.ndarray, Restore]:
    """(N, n, n) -> what a model that knows one scale reads in their place, and what takes solutions of these back.

    usual: the largest entries of matrices like those that the model was trained on; None for no change of scale.
    Matrices between their 5 % and 95 % quantiles are read as they are; the others multiplied so that the largest entry
    is the median. Before that, a model with ModelOptions.canonical_shift has the trace taken away. Numbers are rounded
    first, so that M and rounded M are answered alike.
    """
    if usual is None and not model.options.canonical_shift:
        return inputs, unchanged
    matrices, factors, shifts = rounded(inputs, model.options.reads), None, None
    if model.options.canonical_shift:
        matrices, shifts = centred(matrices)
    if usual is not None:
        low, middle, high = np.quantile(usual, (0.05, 0.5, 0.95))
        largest = largest_entry(matrices)
        as_it_is = ((largest >= low) & (largest <= high)) | (largest == 0)
        factors = np.where(as_it_is, 1.0, middle / np.maximum(largest, 1e-99))
        matrices = matrices * factors[:, None, None]

    def changed_back(solutions: np.ndarray) -> np.ndarray:
        solutions = solutions if factors is None else model.task.rescaled(solutions, factors)
        return solutions if shifts is None else model.task.shifted(solutions, shifts)

    return matrices, changed_back


class Certainty(NamedTuple):
    """How sure a model is of what it writes. Four arrays (N, *target shape), so that each number has its own.

    answers: what `answer` gives. low, high: the quartiles of the distribution that the model gave for the number, in
    the units of the answer and to three digits: half of the probability lies between them, or more where they are the
    same or next to each other. log_probabilities: natural logarithms of the probability of what was written, as it was
    read: their sum over a solution is that of the whole. Each number's distribution is given the numbers before it.
    """

    answers: np.ndarray
    low: np.ndarray
    high: np.ndarray
    log_probabilities: np.ndarray


@torch.no_grad()
def certainty(model: Transformer, inputs: np.ndarray, batch: int = 250, usual: np.ndarray | None = None) -> Certainty:
    """As `answer`, with how sure of each number a model with output="number" is."""
    if not len(inputs):
        return Certainty(*[np.empty((0, *model.asked))] * 4)
    inputs, changed_back = simplified(model, inputs, usual)
    ids, _, restore = model.ids(inputs)
    writer, device, parts = model.writer, next(model.parameters()).device, []
    for part in ids.split(batch):
        written, seen = model.write(part.to(device))
        numbers = (written, *(writer.head.quantile(seen, level) for level in (0.25, 0.75)))
        numbers = [writer.encoding.decode(number.cpu().numpy()[..., None]) for number in numbers]
        parts.append((*numbers, writer.log_probabilities(seen, written).cpu().numpy()))
    found = [restore(np.concatenate(arrays).reshape(-1, *model.asked)) for arrays in zip(*parts)]
    answers, *quartiles = map(changed_back, found[:3])
    # A change of sign exchanges the quartiles, and turns the logarithms, none of which is above 0.
    return Certainty(answers, np.min(quartiles, axis=0), np.max(quartiles, axis=0), -np.abs(found[3]))


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
