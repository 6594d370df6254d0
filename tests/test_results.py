"""The headline numbers, from the stored predictions and the track; and that these come from the stored weights."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from mathtransformer import load_run
from mathtransformer.predictions import PREDICTIONS, judged, load_predictions
from mathtransformer.problems import SPECTRA, get_task
from mathtransformer.track import TRACK

STORED = sorted(PREDICTIONS.glob("*.parquet"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_predictions_are_of_the_stored_weights(path):
    about = pq.read_schema(path).metadata
    assert load_run(about[b"run"].decode()).info["sha256"] == about[b"sha256"].decode()


@pytest.mark.parametrize(
    "name",
    [
        "eigenvectors-3x3",
        "inversion-2x2",
        "eigenvalues-3x3-laplace",
        "eigenvectors-3x3-paper",
        "eigenvalues-5x5-semicircle",
    ],
)
def test_the_model_still_answers_so(name):
    """On another processor an answer may differ where two tokens are almost equally likely, but rarely."""
    task, inputs, targets, stored = load_predictions(name, "laplace" if name.endswith("laplace") else "semicircle")
    answers = load_run(name).predict(inputs[:200])
    same = np.isclose(answers, stored[:200], rtol=1e-9, equal_nan=True).reshape(200, -1).all(1)
    assert same.mean() > 0.95
    if task == "eigenvalues":  # the targets solve the matrices before they were rounded
        np.testing.assert_allclose(get_task(task).solve(inputs), targets, atol=0.2)


def share(run, spectrum="semicircle", name="error", tolerance=0.05, among=None):
    table = judged(run, spectrum)
    table = table if among is None else table[among(table)]
    return (table[name] < tolerance).mean()


def wrong(table):
    return ~(table.error < 0.05)


def test_result_1_wrong_predictions_keep_properties():
    run = "eigenvectors-3x3"
    assert share(run) == pytest.approx(0.980, abs=0.004)
    kept = {name: share(run, name=name, among=wrong) for name in ("eigenvalues", "norm", "orthogonality")}
    assert kept["norm"] > 0.97
    assert kept["eigenvalues"] > 0.93
    assert kept["orthogonality"] < 0.45
    assert 0.4 < share("eigenvectors-3x3-half") < 0.85


def test_result_3_laplace_generalises_and_positive_does_not():
    for tested in SPECTRA:
        assert share(f"eigenvalues-3x3-{tested}", tested) > 0.99
        assert share("eigenvalues-3x3-laplace", tested) > 0.99
    assert share("eigenvalues-3x3-laplace") > share("eigenvalues-3x3-semicircle")
    assert share("eigenvalues-3x3-semicircle", "laplace") < 0.7
    assert share("eigenvalues-3x3-positive", "semicircle") < 0.1


def test_result_2_failures_are_predictable():
    table = judged("eigenvectors-3x3")
    assert roc_auc_score(wrong(table), table.cond_V.clip(upper=1e6)) == pytest.approx(0.980, abs=0.007)
    assert roc_auc_score(wrong(table), -table.gap) == pytest.approx(0.79, abs=0.02)
    inversion = judged("inversion-2x2")
    assert (inversion.error < 0.05).mean() > 0.92
    assert roc_auc_score(wrong(inversion), inversion.cond_M.clip(upper=1e9)) > 0.94


def test_5x5_is_learned_by_the_recipe_and_not_by_the_plain_one():
    for spectrum in ("semicircle", "laplace"):
        assert share(f"eigenvalues-5x5-{spectrum}", spectrum) > 0.99
        assert load_run(f"eigenvalues-5x5-{spectrum}").info["seconds"] < 20 * 60  # the goal was four hours
    assert share("eigenvalues-5x5-laplace", "semicircle") > 0.99
    assert share("eigenvalues-5x5-semicircle", "laplace") < 0.5
    assert share("eigenvalues-5x5-plain") < 0.1


def test_result_1_at_5x5():
    run = "eigenvectors-5x5"
    assert share(run) == pytest.approx(0.8685, abs=0.008)
    kept = {name: share(run, name=name, among=wrong) for name in ("eigenvalues", "norm", "orthogonality")}
    assert kept["eigenvalues"] > 0.99 and kept["norm"] > 0.96
    assert kept["orthogonality"] < 0.7


def test_errors_of_inverses_follow_the_condition_number():
    table = judged("inversion-3x3")
    assert (table.error < 0.05).mean() == pytest.approx(0.8600, abs=0.004)
    assert load_run("inversion-3x3").info["seconds"] < 2 * 3600  # in which the goal was 85 %
    assert (table.error[table.cond_M < 5] < 0.05).mean() > 0.99
    assert (table.error[table.cond_M > 30] < 0.05).mean() == pytest.approx(0.066, abs=0.01)


def test_fast_learns_in_the_time_in_which_paper_does_not():
    fast, paper = (load_run(f"eigenvectors-3x3-{name}") for name in ("canonical", "paper"))
    assert fast.info["seconds"] == pytest.approx(paper.info["seconds"], rel=0.01)
    assert share("eigenvectors-3x3-components") > 0.97
    assert share("eigenvectors-3x3-canonical") == pytest.approx(0.987, abs=0.004)
    assert share("eigenvectors-3x3-paper", name="eigenvalues", tolerance=0.25) < 0.3


def test_canonical_matrices_and_components_pay_in_every_seed():
    rows = pd.read_csv(TRACK, keep_default_na=False).set_index(["preset", "minutes", "lever"])["within_5%"].sort_index()
    for task, gain in (
        (("eigenvalues-5x5", 2.5), 0.2),
        (("eigenvectors-3x3-canonical", 3), 0.04),
        (("inversion-3x3", 10), 0.08),
    ):
        recipe, without = rows[*task, ""], rows[*task, "canonical_input=False"]
        assert len(recipe) >= 3 and len(without) >= 3
        assert recipe.min() > without.max() and recipe.mean() - without.mean() > gain
    canonical_only = rows["eigenvalues-5x5", 2.5, "components=0.0"]
    assert len(canonical_only) >= 3
    assert canonical_only.max() < rows["eigenvalues-5x5", 2.5, "canonical_input=False"].min() - 0.4
    assert rows["inversion-3x3", 10, "optimizer=adamw"].min() > rows["inversion-3x3", 10, ""].max() + 0.05
