"""Metrics against cases worked out by hand."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mathtransformer.data.measures import condition_number, norm_error, orthogonality, orthogonality_official
from mathtransformer.data.tasks import TASKS, sample
from mathtransformer.evaluation.metrics import TOLERANCES, problem_properties, properties, proportion, within

TEXTS = ("matrix", "target", "prediction")  # columns of official_evaluation.csv that hold numbers


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_exact_solutions_have_no_error(task, size):
    inputs, targets = sample(task, size, 50, np.random.default_rng(0))
    table = properties(task, inputs, targets, targets).drop(columns="cond_V", errors="ignore")
    assert table.to_numpy().max() < 1e-9


def test_eigenvalue_error_by_hand():
    inputs = np.diag([4.0, -1.0])[None]
    table = properties("eigenvalues", inputs, np.array([[4.0, -1.0]]), np.array([[4.1, -0.9]]))
    assert table.error[0] == pytest.approx(0.2 / 5)


def test_eigenvector_error_by_hand():
    # V rotated by t: V'MV of diag(1, 3) has off-diagonal sin 2t and diagonal 2 -+ cos 2t.
    t = 0.1
    rotation = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    prediction = np.concatenate([[[1.0, 3.0]], rotation])[None]
    exact = np.concatenate([[[1.0, 3.0]], np.eye(2)])[None]
    table = properties("eigenvectors", np.diag([1.0, 3.0])[None], exact, prediction)
    assert table.error[0] == pytest.approx((2 * np.sin(2 * t) + 2 * (1 - np.cos(2 * t))) / 4)
    assert table.norm[0] == pytest.approx(0, abs=1e-12)
    assert table.cond_V[0] == pytest.approx(1)
    flipped = prediction * np.array([[[1, 1], [-1, 1], [-1, 1]]])
    assert properties("eigenvectors", np.diag([1.0, 3.0])[None], exact, flipped).error[0] == pytest.approx(
        table.error[0]
    )


def test_inversion_error_by_hand():
    inputs = np.diag([2.0, 4.0])[None]
    exact, prediction = np.diag([0.5, 0.25])[None], np.diag([0.6, 0.25])[None]
    table = properties("inversion", inputs, exact, prediction)
    assert table.error[0] == pytest.approx(0.2 / 2)
    assert table.inverse[0] == pytest.approx(0.1 / 0.75)
    assert problem_properties("inversion", inputs).cond_M[0] == pytest.approx(2)


def test_geometry_by_hand():
    scaled = np.diag([1.2, 1.0, 0.9])[None]
    assert norm_error(scaled)[0] == pytest.approx(0.2)
    assert condition_number(scaled)[0] == pytest.approx(1.2 / 0.9)
    # Rows 0 and 2 lie at 60 degrees, and are not neighbours in a cycle of four.
    skewed = np.eye(4)[None].copy()
    skewed[0, 2] = [0.5, 0, np.sqrt(0.75), 0]
    assert orthogonality(skewed)[0] == pytest.approx(0.5)
    assert orthogonality_official(skewed)[0] == 0
    # The official variant normalises neighbours, but not the product of the first and the last row.
    pair = np.array([[[1.0, 0.0], [0.6, 0.8]]])
    assert orthogonality(pair)[0] == orthogonality_official(pair)[0] == pytest.approx(0.6)
    assert orthogonality_official(pair * np.array([[[1.0], [2.0]]]))[0] == pytest.approx(1.2)
    three = np.array([[[1.0, 0, 0], [0.6, 0.8, 0], [0, 0, 5.0]]])
    assert orthogonality_official(three * np.array([[[1.0], [7.0], [1.0]]]))[0] == pytest.approx(0.6)


def test_the_official_evaluation():
    """160 predictions that the official notebook's own code has judged."""
    table = pd.read_csv(Path(__file__).parent / "data" / "official_evaluation.csv")
    assert len(table) == 160
    for n, rows in table.groupby("size"):
        numbers = {name: np.array([text.split() for text in rows[name]], float) for name in TEXTS}
        matrices = numbers["matrix"].reshape(-1, n, n)
        targets, predictions = (numbers[name].reshape(-1, n + 1, n) for name in ("target", "prediction"))
        ours = properties("eigenvectors", matrices, targets, predictions)
        for name in ("error", "eigenvalues", "norm", "orthogonality_official"):
            np.testing.assert_allclose(ours[name], rows[name], rtol=1e-9, atol=1e-9)


def test_gap():
    table = problem_properties("eigenvalues", np.diag([5.0, 4.0, -10.0])[None])
    assert table.gap[0] == pytest.approx(0.1)
    assert table.cond_M[0] == pytest.approx(10 / 4)


@pytest.mark.parametrize("task", TASKS)
def test_what_does_not_decode_is_infinitely_wrong(task):
    inputs, targets = sample(task, 3, 4, np.random.default_rng(0))
    spoiled = targets.copy()
    spoiled.reshape(4, -1)[1:3, :] = np.nan
    table = properties(task, inputs, targets, spoiled)
    assert np.isinf(table.to_numpy()[1:3]).all()
    assert np.isfinite(table.to_numpy()[[0, 3]]).all()


@pytest.mark.parametrize("task", TASKS)
def test_one_nan_spoils_every_column(task):
    inputs, targets = sample(task, 3, 2, np.random.default_rng(0))
    spoiled = targets.copy()
    spoiled.reshape(2, -1)[1, 0] = np.nan  # of an eigendecomposition, only an eigenvalue
    table = properties(task, inputs, targets, spoiled).to_numpy()
    assert np.isinf(table[1]).all() and np.isfinite(table[0]).all()


@pytest.mark.parametrize("task", TASKS)
def test_no_examples(task):
    inputs, targets = sample(task, 3, 0, np.random.default_rng(0))
    assert len(properties(task, inputs, targets, targets)) == 0


wild = arrays(np.float64, (3, 4, 3), elements=st.one_of(st.floats(), st.sampled_from([0.0, np.nan, np.inf, 1e308])))


@settings(max_examples=200)
@given(predictions=wild)
def test_no_prediction_is_too_wild(predictions):
    inputs, targets = sample("eigenvectors", 3, 3, np.random.default_rng(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = properties("eigenvectors", inputs, targets, predictions)
    assert not table.isna().any().any()
    assert (table[np.isnan(predictions).any((1, 2))].error == np.inf).all()


def test_wilson_interval():
    # Newcombe (1998), table I: 81 of 263, interval 0.2553 to 0.3662.
    share = proportion(81, 263)
    assert share["proportion"] == pytest.approx(0.3080, abs=1e-4)
    assert (share["low"], share["high"]) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert np.isnan(proportion(0, 0)["low"])


def test_within_counts():
    inputs, targets = sample("eigenvalues", 3, 1000, np.random.default_rng(0))
    factor = 1 + np.linspace(0, 0.3, 1000)[:, None]
    shares = within(properties("eigenvalues", inputs, targets, targets * factor))
    assert shares.tolerance.tolist() == list(TOLERANCES)
    assert shares.n.eq(1000).all()
    expected = [int(np.ceil(t / 0.3 * 999)) for t in TOLERANCES]
    assert np.abs(shares.correct - expected).max() <= 1


@pytest.mark.parametrize("task", TASKS)
def test_no_problems_give_an_empty_table(task):
    inputs, targets = sample(task, 3, 0, np.random.default_rng(0))
    assert len(properties(task, inputs, targets, targets)) == 0


NOISE = [("eigenvalues", 0.06), ("eigenvectors", 0.02), ("inversion", 0.03)]


@pytest.mark.parametrize(("task", "noise"), NOISE)
def test_shares_grow_with_the_tolerance(task, noise):
    rng = np.random.default_rng(0)
    inputs, targets = sample(task, 3, 500, rng)
    table = properties(task, inputs, targets, targets * (1 + noise * rng.normal(size=targets.shape)))
    for _, rows in within(table).groupby("property"):
        assert (np.diff(rows.proportion) >= 0).all()
        assert (rows.low <= rows.proportion).all() and (rows.proportion <= rows.high).all()
    assert 0.02 < (table.error < 0.05).mean() < 0.98


def test_signs_of_eigenvectors_do_not_matter():
    rng = np.random.default_rng(0)
    inputs, targets = sample("eigenvectors", 4, 100, rng)
    predictions = targets + 0.01 * rng.normal(size=targets.shape)
    flipped = predictions.copy()
    flipped[:, 1:] *= rng.choice([-1, 1], (100, 1, 4))
    assert not np.array_equal(flipped, predictions)
    first, second = (properties("eigenvectors", inputs, targets, p) for p in (predictions, flipped))
    np.testing.assert_allclose(second.to_numpy(), first.to_numpy(), rtol=1e-9)


def test_the_exact_solution_of_the_zero_matrix_is_right():
    zero = np.zeros((1, 3, 3))
    values, vectors = np.zeros((1, 3)), np.concatenate([np.zeros((1, 1, 3)), np.eye(3)[None]], axis=1)
    assert properties("eigenvalues", zero, values, values).error[0] == 0
    assert (properties("eigenvectors", zero, vectors, vectors)[["error", "eigenvalues"]] == 0).all(axis=None)
    assert properties("eigenvalues", zero, values, values + 1).error[0] == np.inf
