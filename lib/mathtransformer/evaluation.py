"""From a model to numbers: predictions for many matrices, and the test sets that judge them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from .encodings import encoding
from .metrics import properties
from .model import Transformer
from .problems import sample


def rounded(inputs: np.ndarray) -> np.ndarray:
    """Numbers as the model sees them: three significant digits, through FP15 and back."""
    fp15 = encoding("FP15")
    return fp15.decode(fp15.encode(inputs))


def answer(model: Transformer, inputs: np.ndarray, batch: int = 1000) -> np.ndarray:
    """(N, n, n) matrices -> (N, *target shape) float64 predictions, NaN where one does not decode.

    Always in single precision, so that predictions hardly depend on the processor.
    """
    device = next(model.parameters()).device
    ids = torch.from_numpy(encoding("FP15").encode(inputs)[..., 0])
    parts = [model.generate(part.to(device)).cpu().numpy() for part in ids.split(batch)] if len(ids) else []
    return model.written.decode(np.concatenate(parts)) if parts else np.empty((0, *model.asked))


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
