"""How sure a model is of what it writes: `Run.certainty`, and the probabilities and quartiles that it is made of."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from small import tiny, train

from mathtransformer import load_run, sample
from mathtransformer.analysis.predictions import load_predictions
from mathtransformer.data.measures import condition_number, relative, relative_gap
from mathtransformer.evaluation.solving import signed_orders
from mathtransformer.model.numbers import NUMBERS


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certainty") / "plain"
    train(tiny(160, canonical_input=False), folder)
    return load_run(folder)


@pytest.fixture(scope="module")
def canonical(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certainty") / "canonical"
    train(tiny(160, canonical_input=True), folder)
    return load_run(folder)


@torch.no_grad()
def test_the_probabilities_of_all_numbers_sum_to_one(plain):
    ids = plain.model.ids(sample("eigenvectors", 3, 1, 0)[0])[0]
    _, seen = plain.model.write(ids)
    for place in (0, 7):
        x = seen[:, place : place + 1]
        parts = torch.arange(NUMBERS).split(2_000)
        logarithms = [plain.model.writer.log_probabilities(x.expand(1, len(part), -1), part[None]) for part in parts]
        assert torch.cat(logarithms, dim=1).exp().sum().item() == pytest.approx(1, abs=1e-6)


@torch.no_grad()
def test_log_probabilities_are_minus_the_loss(plain):
    inputs, targets = sample("eigenvectors", 3, 20, 0)
    ids = plain.model.ids(inputs)[0], torch.from_numpy(plain.model.writer.encoding.encode(targets))
    found = plain.log_probabilities(inputs, targets)
    assert -found.mean() == pytest.approx(plain.model(*ids).item(), rel=1e-5)
    assert 3 < -found.mean() < 10.3  # between an exact model and one that knows nothing, ln(33 * 900)


def test_certainty_is_of_what_is_predicted(plain):
    inputs, _ = sample("eigenvectors", 3, 20, 0)
    found = plain.certainty(inputs, batch=7)
    np.testing.assert_array_equal(found.answers, plain.predict(inputs))
    again = plain.log_probabilities(inputs, found.answers).reshape(found.answers.shape)
    np.testing.assert_allclose(found.log_probabilities, again, atol=1e-4)
    assert (found.low <= found.answers).all() and (found.answers <= found.high).all()  # the answer is the median
    assert (found.low < found.high).mean() > 0.9
    assert all(part.shape == (0, 4, 3) for part in plain.certainty(inputs[:0]))


def test_certainty_comes_back_to_the_places_of_the_answer(canonical):
    """Rows and columns of M in another order and with other signs: so are the rows of V, but for the sign of all."""
    inputs, _ = sample("eigenvectors", 3, 20, 0)
    orders = signed_orders(inputs, np.random.default_rng(1))
    before, after = canonical.certainty(inputs), canonical.certainty(orders @ inputs @ orders.mT)
    np.testing.assert_allclose(np.abs(after.answers[:, 1:]), np.abs(orders @ before.answers[:, 1:]))
    np.testing.assert_allclose(after.log_probabilities[:, 1:], np.abs(orders) @ before.log_probabilities[:, 1:])
    np.testing.assert_allclose((after.high - after.low)[:, 1:], np.abs(orders) @ (before.high - before.low)[:, 1:])
    assert (after.low <= after.answers).all() and (after.answers <= after.high).all()
    assert len(np.unique((before.high - before.low)[:, 1:])) > 50


def test_quartiles_have_the_scale_of_the_answer(canonical):
    inputs, _ = sample("eigenvectors", 3, 20, 0)
    small, large = canonical.certainty(100 * inputs), canonical.certainty(10_000 * inputs)
    np.testing.assert_allclose(large.high[:, 0], 100 * small.high[:, 0], rtol=1e-9)
    np.testing.assert_allclose(large.high[:, 1:], small.high[:, 1:], rtol=1e-9)
    np.testing.assert_allclose(large.log_probabilities, small.log_probabilities, rtol=1e-9)
    bare = canonical.certainty(100 * inputs, any_scale=False)
    assert not np.allclose(bare.log_probabilities, small.log_probabilities)


def test_models_that_write_tokens_are_refused(tmp_path):
    options = {"output": "P1000", "positions": "sequence", "decoding": "greedy", "components": 0.0}
    train(tiny(64, **options), tmp_path / "tokens")
    with pytest.raises(ValueError, match="tokens writes tokens, not numbers"):
        load_run(tmp_path / "tokens").certainty(np.eye(3)[None])


def test_a_longer_training_makes_more_certain():
    inputs = load_predictions("eigenvectors-3x3")[1][:200]
    trained, half = (load_run(name).certainty(inputs) for name in ("eigenvectors-3x3", "eigenvectors-3x3-half"))
    assert trained.log_probabilities.mean() > half.log_probabilities.mean() + 0.5
    assert np.median(trained.high - trained.low) < 0.6 * np.median(half.high - half.low)


@pytest.mark.parametrize(
    ("name", "least"), [("eigenvectors-3x3", 0.25), ("eigenvectors-5x5", 0.3), ("inversion-3x3", 0.8)]
)
def test_easy_problems_are_answered_with_more_certainty(name, least):
    inputs = load_predictions(name)[1][:300]
    found = load_run(name).certainty(inputs)
    widths = (found.high - found.low)[:, -inputs.shape[-1] :].sum((1, 2))  # of V, or of the inverse
    hard = condition_number(inputs) if "inversion" in name else -relative_gap(inputs)
    assert spearmanr(widths, hard)[0] > least


def test_width_warns_of_wrong_answers_better_than_probability():
    """Notebook 06, section 5, on the first of the stored problems."""
    run, inputs = load_run("eigenvectors-5x5"), load_predictions("eigenvectors-5x5")[1][:600]
    found = run.certainty(inputs, any_scale=False)
    wrong = run.model.task.error(inputs, None, found.answers) >= 0.05
    parts = slice(0, 1), slice(1, None)
    width = sum(relative((found.high - found.low)[:, part], found.answers[:, part]) for part in parts)
    probable = roc_auc_score(wrong, -found.log_probabilities.sum((1, 2)))
    assert 0.65 < probable < roc_auc_score(wrong, width) < 0.97


@pytest.mark.parametrize(("name", "low", "high"), [("eigenvectors-3x3", 0.4, 1.6), ("eigenvectors-5x5", 0.5, 2.0)])
def test_errors_are_as_large_as_the_quartiles_say(name, low, high):
    """Of eigenvalues, which have no sign to choose: median error over half the distance of the quartiles."""
    run, inputs = load_run(name), load_predictions(name)[1][:500]
    found = run.certainty(inputs, any_scale=False)
    halves = (found.high - found.low)[:, 0] / 2
    errors = np.abs(found.answers - run.model.task.solve(inputs))[:, 0]
    assert low < np.median(errors[halves > 0] / halves[halves > 0]) < high
