"""The bench: operations against a count by hand, and that it measures what a training does."""

import pytest
import torch

from mathtransformer.tools import bench
from mathtransformer.training.config import Config


def test_operations_against_a_count_by_hand():
    """Two operations a weight and token forward, four backward; attention takes two products besides."""
    width, read, written = 128, 15, 30
    encoder = 4 * (12 * width**2 * read + 2 * read**2 * width)
    decoder = 14 * width**2 * written + 2 * width**2 * read + 2 * (written + read) * written * width
    heads = (33 + width + 900) * width * written
    embeddings = 2 / 3 * 42 * width * (read + written - 1)  # no gradient for what is embedded
    expected = 6 * (encoder + decoder + heads + embeddings)
    assert bench.flops(Config.of("eigenvectors", 5)) == pytest.approx(expected, rel=0.01)
    assert bench.flops(Config.of("eigenvalues", 5)) == pytest.approx(expected, rel=0.01)  # eigenvectors after them
    assert bench.flops(Config.of("eigenvalues", 5, cotrain=False)) < expected / 1.6  # 5 numbers instead of 30


def test_a_training_is_measured(monkeypatch):
    monkeypatch.setattr(bench, "test_set", lambda task, size, n: original(task, size, 20))
    rates = bench.training("inversion", 1, seconds=0.3, compiled=False)
    assert rates["examples"] > 10 and rates["predictions"] > 10
    operations = bench.flops(Config.of("inversion", 1))
    assert rates["GFLOP"] == pytest.approx(rates["examples"] * operations / 1e9)
    assert bench.ceiling(torch.float32, 0.1) > rates["GFLOP"]
    # A step draws its share of a block, computes, and takes the optimizers' steps.
    assert rates["drawing"] > 0 and 0 < rates["optimizers"] < 2 * rates["step"]
    assert rates["step"] == pytest.approx(1e3 * 64 / rates["examples"])


def test_the_processor_is_named():
    assert len(bench.processor()) > 3 and "\n" not in bench.processor()


original = bench.test_set
