"""Canonical matrices: that they are, and that solutions of theirs lead back to those of the inputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mathtransformer.data.canonical import canonical_matrices, canonical_symmetric
from mathtransformer.data.encodings import encoding, rounded
from mathtransformer.data.tasks import TASKS, draw, sample
from mathtransformer.evaluation.answers import answer, certainty
from mathtransformer.model.options import ModelOptions
from mathtransformer.model.transformer import Transformer
from mathtransformer.training.batches import Batches
from mathtransformer.training.config import Config
from mathtransformer.training.presets import get_preset

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


@pytest.mark.parametrize("n", [3, 5])
def test_the_order_and_the_signs_of_canonical_matrices(n):
    rng = np.random.default_rng(n)
    matrices, _ = canonical_matrices(sample("inversion", n, 500, rng)[0])
    for k in range(n):
        assert (np.abs(matrices[:, k, k]) == np.abs(matrices[:, k:, k:]).max((1, 2))).all()
    assert matrices[:, 0].min() >= 0 and matrices[:, :, 0].min() >= 0
    assert (matrices[:, 0, -1] >= matrices[:, -1, 0]).all()
    symmetric, _ = canonical_symmetric(sample("eigenvalues", n, 500, rng)[0])
    np.testing.assert_array_equal(symmetric, symmetric.mT)
    assert (np.diff(np.diagonal(symmetric, axis1=1, axis2=2)) <= 0).all() and symmetric[:, 0, 1:].min() >= 0


def without_ties(inputs):
    """Those whose entries (of a triangle) differ in magnitude once they are rounded."""
    n = inputs.shape[-1]
    flat = np.abs(rounded(inputs))[:, *np.triu_indices(n)] if (inputs == inputs.mT).all() else np.abs(rounded(inputs))
    return inputs[np.diff(np.sort(flat.reshape(len(inputs), -1)), axis=1).min(1) > 0]


def test_a_model_answers_all_alike():
    """Whatever the model has learned, here nothing, its answers change with the matrix as the solutions do."""
    torch.manual_seed(1)  # of some initial weights the median is 0, whatever the matrix
    rng = np.random.default_rng(0)
    options = ModelOptions(width=16, heads=2, encoder_layers=1)
    order, signs = rng.permutation(3), rng.choice([-1.0, 1.0], 3)
    inputs = without_ties(sample("inversion", 3, 50, rng)[0])
    model = Transformer(TASKS["inversion"], 3, options)
    answers = answer(model, inputs)
    np.testing.assert_array_equal(answer(model, inputs.mT), answers.mT)
    np.testing.assert_array_equal(answer(model, inputs[:, order] * signs), answers[:, :, order] * signs[:, None])

    inputs = without_ties(sample("eigenvectors", 3, 50, rng)[0])
    assert len(inputs) > 40
    changed = inputs[:, order][:, :, order] * signs[:, None] * signs
    for task in ("eigenvalues", "eigenvectors"):
        model = Transformer(TASKS[task], 3, options)
        answers, others = answer(model, inputs), answer(model, changed)
        expected = answers if task == "eigenvalues" else np.abs(answers[:, [0, *1 + order]])
        np.testing.assert_array_equal(others if task == "eigenvalues" else np.abs(others), expected)
    plain = Transformer(TASKS["inversion"], 3, replace(options, canonical_input=False))
    assert (answer(plain, inputs.mT[:, ::-1]) != answer(plain, inputs[:, ::-1]).mT).any()


@pytest.mark.parametrize("name", ["inversion-3x3", "eigenvectors-5x5"])
def test_trainings_see_canonical_matrices_and_their_solutions(name):
    config = get_preset(name).config
    task = TASKS[config.task]
    model = Transformer(task, config.size, config.model)
    read, targets, *_ = (part.numpy() for part in Batches(model, config, 64)[0])
    inputs, targets = (encoding("FP15").decode(ids) for ids in (read, targets))
    assert (inputs[:, 0, 1:] >= 0).all()
    if task.symmetric:
        assert (np.diff(np.diagonal(inputs, axis1=1, axis2=2)) <= 0).all()
    else:
        assert (inputs[:, 0, 0] == np.abs(inputs).max((1, 2))).all()
    assert np.median(task.error(inputs, targets, targets)) < 0.01


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("n", [3, 5])
def test_rounding_comes_before_the_order(task, n):
    """M and rounded M are read alike; and the unrounded matrix can be put into the same order."""
    inputs, _ = sample(task, n, 20_000, 0)
    model = Transformer(TASKS[task], n, ModelOptions(width=16, heads=2, encoder_layers=1))
    ids, matrices, _ = model.ids(inputs)
    again, _, _ = model.ids(rounded(inputs))
    assert (ids == again).all()
    np.testing.assert_array_equal(encoding("FP15").decode(ids.numpy()), matrices)
    unrounded, restore = TASKS[task].canonical(inputs, rounded(inputs))
    np.testing.assert_array_equal(rounded(unrounded), matrices)
    first = inputs[:100], TASKS[task].solve(inputs[:100])
    restore = TASKS[task].canonical(first[0], rounded(first[0]))[1]
    assert TASKS[task].error(*first, restore(TASKS[task].solve(unrounded[:100]))).max() < 1e-9


@pytest.mark.parametrize("task", TASKS)
def test_targets_of_the_unrounded_matrix_follow_the_order_of_the_rounded(task):
    config = Config.of(task, 3, exact_targets=False, cotrain=False, width=16, heads=2, encoder_layers=1)
    batches = Batches(Transformer(TASKS[task], 3, config.model), config, 64)
    read, targets = (part.flatten(0, 1) for part in batches.draw(0))
    inputs = draw(TASKS[task], 3, len(read), np.random.default_rng([0, 0]))
    unrounded, _ = TASKS[task].canonical(inputs, rounded(inputs))
    np.testing.assert_array_equal(encoding("FP15").decode(read.numpy()), rounded(unrounded))
    expected = TASKS[task].lesson(unrounded, False, True)
    np.testing.assert_array_equal(encoding("FP15").decode(targets.numpy()), rounded(expected))
    assert (rounded(TASKS[task].lesson(rounded(unrounded), False, True)) != rounded(expected)).any()


def test_a_tie_of_another_encoding_is_in_the_order_that_the_model_reads():
    """0.09995 is read as 0.1 through FP15 and as 0.0999 through P1000, which decides which comes first."""
    written = {"embedding": "P1000", "output": "P1000", "positions": "sequence", "decoding": "greedy"}
    config = Config.of("eigenvectors", 2, exact_targets=False, width=16, heads=2, encoder_layers=1, **written)
    batches = Batches(Transformer(TASKS["eigenvectors"], 2, config.model), config, 64)
    inputs = np.array([np.diag([0.09995, 0.1]), np.diag([0.1, 0.09995])])
    assert (rounded(inputs) != rounded(inputs, "P1000")).any()
    read = batches.model.ids(inputs)[1]
    np.testing.assert_array_equal(rounded(batches.canonical(inputs), "P1000"), read)


@pytest.mark.parametrize("task", ["eigenvalues", "eigenvectors"])
@pytest.mark.parametrize("usual", [None, np.array([3.0])])
def test_a_shift_adds_to_the_eigenvalues_and_changes_nothing_else(task, usual):
    """Of integers, which are read exactly; at any scale."""
    inputs = np.random.default_rng(0).integers(-9, 10, (40, 3, 3)).astype(float)
    inputs[:, 2, 2] = -inputs[:, 0, 0] - inputs[:, 1, 1]
    inputs = np.triu(inputs) + np.triu(inputs, 1).mT
    model = Transformer(TASKS[task], 3, ModelOptions(width=16, heads=2, encoder_layers=1, canonical_shift=True)).eval()
    asked, moved = (certainty(model, inputs + c * np.eye(3), usual=usual) for c in (0, 70))
    for one, other in zip(asked[:3], moved[:3]):
        one = one.reshape(40, -1)
        one[:, :3] += 70
        np.testing.assert_allclose(one, other.reshape(40, -1), atol=1e-9)
    np.testing.assert_array_equal(asked.log_probabilities, moved.log_probabilities)
    np.testing.assert_array_equal(moved.answers, answer(model, inputs + 70 * np.eye(3), usual=usual))


def test_trainings_with_a_shift_see_matrices_without_trace_and_their_solutions():
    config = Config.of("eigenvectors", 3, spectrum="positive", canonical_shift=True, width=16, heads=2)
    batches = Batches(Transformer(TASKS["eigenvectors"], 3, config.model), config, 64)
    inputs, targets = (encoding("FP15").decode(part.numpy()) for part in batches[0][:2])
    traces = np.trace(inputs, axis1=1, axis2=2) / np.abs(inputs).max((1, 2))
    assert 0 < np.abs(traces).max() < 0.01 and np.abs(targets[:, 0].sum(1)).max() < 0.2
    assert np.median(TASKS["eigenvectors"].error(inputs, targets, targets)) < 0.01
    with pytest.raises(ValueError, match="inversion of M is not known from that of M - cI"):
        Config.of("inversion", 3, canonical_shift=True)
