"""Why predictions fail (notebook 06): the theory itself, and its headline numbers from the stored predictions."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mathtransformer import load_run, properties, sample
from mathtransformer.analysis.failures import mixing, noisy_eigenvectors, symmetric_noise
from mathtransformer.analysis.predictions import load_predictions
from mathtransformer.data.encodings import rounded
from mathtransformer.data.measures import orthogonality, relative_gap
from mathtransformer.data.tasks import get_task
from mathtransformer.evaluation.repair import residual

VECTORS, EIGENVALUES = get_task("eigenvectors"), get_task("eigenvalues")


def test_noise_has_no_preferred_direction():
    noise = symmetric_noise((20_000, 3), np.random.default_rng(0))
    assert np.array_equal(noise, noise.mT)
    v, w = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 2)))[0].T
    np.testing.assert_allclose([(noise @ v @ v).std(), (noise @ v @ w).std()], [1, 0.5**0.5], rtol=0.03)


def test_one_noisy_matrix_fails_at_any_gap_alike_and_keeps_orthogonality():
    matrices, rng = sample("eigenvectors", 3, 5000, 0)[0], np.random.default_rng(1)
    scale = np.abs(VECTORS.solve(matrices)[:, 0]).sum(1)
    close = relative_gap(matrices) < 0.1
    for shared in (True, False):
        answers = noisy_eigenvectors(matrices, 0.3, rng, shared)
        error = VECTORS.error(matrices, None, answers) * scale
        ratio = np.median(error[close]) / np.median(error[~close])
        assert (0.9 < ratio < 1.1) if shared else ratio > 1.5
        assert (orthogonality(answers[:, 1:]).max() < 1e-9) == shared


@pytest.mark.parametrize(
    ("run", "low", "high"),
    [("eigenvectors-3x3", 0.6, 0.7), ("eigenvectors-3x3-half", 0.2, 0.25), ("eigenvectors-5x5", 0.2, 0.8)],
)
def test_many_failures_are_not_orthogonal(run, low, high):
    _, inputs, _, predictions = load_predictions(run)
    wrong = VECTORS.error(inputs, None, predictions) >= 0.05
    assert low < (orthogonality(predictions[wrong, 1:]) >= 0.05).mean() < high


@pytest.mark.parametrize("run", ["eigenvectors-3x3", "eigenvectors-3x3-half", "eigenvectors-5x5"])
def test_neighbours_mix_as_the_errors_of_eigenvalues_say(run):
    """Medians of |<v_j, predicted v_i>| |lambda_i - lambda_j| and of the errors of eigenvalues: as 1 to sqrt(2)."""
    _, inputs, _, predictions = load_predictions(run)
    errors = np.abs(predictions[:, 0] - VECTORS.solve(inputs)[:, 0])
    products = [np.diagonal(np.prod(mixing(inputs, predictions), axis=0), k, 1, 2) for k in (1, -1)]
    assert 0.5 < np.median(np.abs(products)) / np.median(errors) * 2**0.5 < 2


@pytest.mark.parametrize(("run", "seen"), [("inversion-2x2", 0.070), ("inversion-3x3", 0.140)])
def test_failures_of_inversion_follow_from_one_number(run, seen):
    _, inputs, _, predictions = load_predictions(run)
    inverse, rng = get_task("inversion"), np.random.default_rng(0)
    exact = inverse.solve(inputs)
    size = np.sqrt((exact**2).mean((1, 2), keepdims=True))
    share = np.median(np.sqrt((((predictions - exact) / size) ** 2).mean((1, 2))))
    noisy = rounded(exact + share * size * rng.normal(size=exact.shape))
    assert (inverse.error(inputs, None, predictions) >= 0.05).mean() == pytest.approx(seen, abs=0.005)
    assert (inverse.error(inputs, None, noisy) >= 0.05).mean() == pytest.approx(seen, rel=0.25)


def test_the_residual_of_eigenvalues_is_never_above_the_error():
    inputs, targets = sample("eigenvalues", 4, 2000, 0, spectrum="laplace")
    rng = np.random.default_rng(1)
    for size in (0.001, 0.1, 10):
        answers = targets * (1 + size * rng.normal(size=(2000, 1))) + size * rng.normal(size=targets.shape)
        assert (residual(EIGENVALUES, inputs, answers) <= EIGENVALUES.error(inputs, targets, answers) + 1e-9).all()
    assert residual(EIGENVALUES, inputs, targets).max() < 1e-9
    assert np.isinf(residual(EIGENVALUES, inputs[:1], np.full((1, 4), np.nan))).all()


def test_trace_and_norm_find_wrong_eigenvalues():
    _, inputs, targets, predictions = load_predictions("eigenvalues-3x3-semicircle", "laplace")
    wrong, bound = EIGENVALUES.error(inputs, targets, predictions) >= 0.05, residual(EIGENVALUES, inputs, predictions)
    assert roc_auc_score(wrong, bound) == pytest.approx(0.989, abs=0.01)
    assert (bound[wrong] >= 0.05).mean() == pytest.approx(0.876, abs=0.02)
    assert (bound[~wrong] >= 0.05).sum() <= 5


@pytest.mark.parametrize("name", ["eigenvectors-3x3", "eigenvectors-5x5"])
def test_wrong_answers_on_larger_matrices_keep_norms_and_not_eigenvalues(name):
    run = load_run(name)
    inputs = rounded(2 * sample("eigenvectors", run.config.size, 100, 1)[0])
    table = properties("eigenvectors", inputs, VECTORS.solve(inputs), run.predict(inputs, any_scale=False))
    wrong = table[table.error >= 0.05]
    assert len(wrong) > 80 and (wrong.eigenvalues < 0.05).mean() < 0.2
    assert (wrong.norm < 0.05).mean() > 0.8
