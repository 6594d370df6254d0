"""What notebooks 01 and 02 state about failures, from stored predictions and logs.

Of `eigenvectors-5x5`, which better runs may replace, only bounds are asserted.
"""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from mathtransformer.analysis.predictions import judged, load_predictions, stored_seeds
from mathtransformer.evaluation.metrics import properties
from mathtransformer.paths import RESULTS, RUNS

judged = cache(judged)
SEEDS = stored_seeds("eigenvectors-3x3")


def failed(run):
    return ~(judged(run).error < 0.05).to_numpy()


def kept(run, name, tolerance=0.05):
    return (judged(run)[failed(run)][name] < tolerance).mean()


def area(run, column, sign=1, size=None):
    score = np.clip(sign * judged(run)[column].to_numpy(), -1e6, 1e6)
    return roc_auc_score(failed(run)[:size], score[:size])


def test_there_are_three_seeds():
    assert SEEDS == ["eigenvectors-3x3", "eigenvectors-3x3-seed1", "eigenvectors-3x3-seed2"]


@pytest.mark.parametrize("run", ["eigenvectors-5x5", *SEEDS])
def test_failures_keep_eigenvalues_and_norms_and_lose_orthogonality(run):
    assert kept(run, "eigenvalues") > 0.94 and kept(run, "norm") > 0.94
    assert kept(run, "orthogonality") < (0.8 if run == "eigenvectors-5x5" else 0.45)


@pytest.mark.parametrize("run", ["eigenvectors-5x5", "eigenvectors-3x3"])
def test_answers_to_other_problems_have_wrong_eigenvalues(run):
    task, inputs, targets, predictions = (x if isinstance(x, str) else x[failed(run)] for x in load_predictions(run))
    swapped = properties(task, inputs, targets, np.roll(predictions, 1, axis=0))
    assert (swapped.eigenvalues < 0.05).mean() < 0.01


def test_failures_are_roughly_right_at_5x5_and_often_not_at_3x3():
    assert kept("eigenvectors-5x5", "error", 0.25) > 0.7
    for run in SEEDS:
        assert kept(run, "error", 0.25) == pytest.approx(0.56, abs=0.06)
        assert 0.17 < 1 - kept(run, "error", 1.0) < 0.27


def test_canonical_matrices_change_what_is_lost_and_components_do_not():
    assert kept("eigenvectors-3x3-components", "orthogonality") == pytest.approx(0.351, abs=0.03)
    assert kept("eigenvectors-3x3-canonical", "orthogonality") == pytest.approx(0.758, abs=0.03)
    for run in ("eigenvectors-5x5-components", "eigenvectors-3x3-components", "eigenvectors-3x3-canonical"):
        assert kept(run, "eigenvalues") > 0.92 and kept(run, "norm") > 0.94


def test_large_errors_of_the_half_trained_model_lose_orthogonality():
    assert kept("eigenvectors-3x3-half", "orthogonality") == pytest.approx(0.779, abs=0.01)
    largest = judged("eigenvectors-3x3-half").nlargest(failed("eigenvectors-3x3").sum(), "error")
    assert (largest.orthogonality < 0.05).mean() < 0.02 and (largest.eigenvalues < 0.05).mean() > 0.84


@pytest.mark.parametrize(
    "run", ["eigenvectors-5x5", "eigenvectors-5x5-components", *SEEDS, "eigenvectors-3x3-canonical"]
)
def test_norms_emerge_first_and_the_whole_last(run):
    log = pd.read_csv(RUNS / run / "log.csv")
    for level in (0.5, 0.9):
        first = {
            name: log.examples[log[f"{name}_5%"] >= level].min() for name in ("norm", "eigenvalues", "orthogonality")
        }
        whole = log.examples[log["error_5%"] >= level].min()
        assert first["norm"] < first["eigenvalues"] and not whole <= max(first.values())
        late = first["orthogonality"] < first["eigenvalues"]  # False if never
        assert late == (run == "eigenvectors-3x3-canonical")


def test_the_order_among_failures_is_not_that_of_learning():
    assert kept("eigenvectors-5x5", "eigenvalues") > kept("eigenvectors-5x5", "norm")
    assert kept("eigenvectors-3x3", "norm") > kept("eigenvectors-3x3", "eigenvalues") + 0.01


@pytest.mark.parametrize(("size", "close"), [("2x2", 0.772), ("3x3", 0.815)])
def test_wrong_inverses_are_close_to_the_inverse(size, close):
    assert kept(f"inversion-{size}", "inverse") == pytest.approx(close, abs=0.01)
    assert kept(f"inversion-{size}", "inverse", 0.25) > 0.9


def test_the_paper_s_threshold_is_one_at_5_per_cent_and_none_at_1_per_cent():
    table = pd.read_csv(RESULTS / "paper_numbers.csv").set_index(["quantity", "tolerance"]).value
    right, wrong = table["cond_V right 98th percentile"], table["cond_V wrong 2nd percentile"]
    assert right[0.05] < wrong[0.05] and right[0.01] > wrong[0.01]


@pytest.mark.parametrize(
    ("run", "low", "high"),
    [("eigenvectors-5x5", 0.85, 0.99), ("eigenvectors-3x3", 0.92, 0.95), ("eigenvectors-3x3-half", 0.73, 0.75)],
)
def test_a_threshold_of_one_half_on_the_other(run, low, high):
    score, wrong = judged(run).cond_V.clip(upper=1e6).to_numpy(), failed(run)
    half = len(score) // 2
    false_alarms, caught, thresholds = roc_curve(wrong[:half], score[:half])
    above = score[half:] >= thresholds[np.argmin(np.abs(false_alarms - (1 - caught)))]
    assert low < above[wrong[half:]].mean() < high and low < 1 - above[~wrong[half:]].mean() < high


@pytest.mark.parametrize("run", ["eigenvectors-5x5", "eigenvectors-3x3"])
def test_the_error_of_eigenvectors_needs_no_right_answer(run):
    task, inputs, targets, predictions = load_predictions(run)
    blind = properties(task, inputs, np.full_like(targets, np.nan), predictions)
    np.testing.assert_array_equal(blind.error, judged(run).error)


def test_well_conditioned_matrices_have_close_eigenvalues_and_fail_more():
    """At least half of n eigenvalues have one sign, all between |lambda|max / cond(M) and |lambda|max."""
    assert area("eigenvectors-3x3", "cond_M") == pytest.approx(0.418, abs=0.01)
    for run, n in (("eigenvectors-5x5", 5), ("eigenvectors-3x3", 3)):
        table = judged(run)
        assert (table.gap <= (1 - 1 / table.cond_M) / ((n + 1) // 2 - 1) + 1e-9).all()
        tenths = pd.qcut(table.cond_M, 10, labels=False)
        assert table.gap.groupby(tenths).median().idxmin() == 0
        assert pd.Series(failed(run)).groupby(tenths).mean().idxmax() == 0
    assert 0.4 < area("eigenvectors-5x5", "cond_M") < 0.55 and area("eigenvectors-5x5", "gap", -1) > 0.75


@pytest.mark.parametrize(("run", "low", "high"), [("eigenvectors-5x5", 0.3, 0.7), ("eigenvectors-3x3", 0.23, 0.29)])
def test_failures_are_of_v_and_partly_of_its_orthogonality(run, low, high):
    task, inputs, targets, predictions = (x if isinstance(x, str) else x[failed(run)] for x in load_predictions(run))
    left, _, right = np.linalg.svd(predictions[:, 1:])

    def mended(eigenvalues, vectors):
        return (properties(task, inputs, targets, np.concatenate([eigenvalues, vectors], axis=1)).error < 0.05).mean()

    assert low < mended(predictions[:, :1], left @ right) < high
    assert mended(predictions[:, :1], targets[:, 1:]) > 0.94 and mended(targets[:, :1], predictions[:, 1:]) < 0.3
