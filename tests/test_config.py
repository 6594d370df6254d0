"""Budgets and options that no training can use."""

import pytest

from mathtransformer.config import PRESETS


@pytest.mark.parametrize(
    "options",
    [
        {"examples": 0},
        {"minutes": float("nan")},
        {"minutes": float("inf")},
        {"learning_rate": float("nan")},
        {"clip": float("nan")},
        {"examples": -5},
        {"decay": float("nan")},
    ],
    ids=str,
)
def test_impossible_numbers_are_refused(options):
    with pytest.raises(ValueError):
        PRESETS["eigenvectors-3x3"].changed(**options)
