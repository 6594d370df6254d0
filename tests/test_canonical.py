"""Canonical matrices: that they are, and that solutions of theirs lead back to those of the inputs."""

import numpy as np
import pytest

from mathtransformer.canonical import canonical_matrices, canonical_symmetric
from mathtransformer.problems import TASKS, sample

SIZES = (1, 2, 3, 5)


def shuffled(matrices, rng, symmetric):
    """The same matrices with rows and columns in another order and with other signs, transposed if not symmetric."""
    n = matrices.shape[-1]
    p, s = rng.permutation(n), rng.choice([-1.0, 1.0], n)
    q, t = (p, s) if symmetric else (rng.permutation(n), rng.choice([-1.0, 1.0], n))
    changed = matrices[:, p][:, :, q] * s[:, None] * t
    return changed if symmetric else changed.mT


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("n", SIZES)
def test_solutions_of_canonical_matrices_give_those_of_the_inputs(task, n):
    inputs, targets = sample(task, n, 500, np.random.default_rng(n))
    task = TASKS[task]
    matrices, restore = task.canonical(inputs)
    solutions = restore(task.solve(matrices))
    assert task.error(inputs, targets, solutions).max() < 1e-9
    assert solutions.shape == targets.shape


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_one_canonical_matrix_for_all(n, symmetric):
    rng = np.random.default_rng(n)
    canonical = canonical_symmetric if symmetric else canonical_matrices
    inputs, _ = sample("eigenvectors" if symmetric else "inversion", n, 500, rng)
    before = inputs.copy()
    matrices, _ = canonical(inputs)
    for _ in range(5):
        np.testing.assert_array_equal(canonical(shuffled(inputs, rng, symmetric))[0], matrices)
    np.testing.assert_array_equal(canonical(matrices)[0], matrices)
    np.testing.assert_array_equal(inputs, before)
    assert canonical(inputs[:0])[0].shape == (0, n, n)


def test_what_canonical_matrices_look_like():
    matrices, _ = canonical_matrices(np.array([[[1.0, -2.0], [4.0, 3.0]], [[-7.0, 1.0], [2.0, 3.0]]]))
    np.testing.assert_array_equal(matrices, [[[4.0, 3.0], [1.0, -2.0]], [[7.0, 2.0], [1.0, -3.0]]])
    matrices, _ = canonical_symmetric(np.array([[[1.0, -2.0], [-2.0, 5.0]]]))
    np.testing.assert_array_equal(matrices, [[[5.0, 2.0], [2.0, 1.0]]])
