"""The check and the repairs: their mathematics, bad answers and inputs, and what `Run.solve` makes of them."""

import numpy as np
import pytest

from mathtransformer import load_run, sample
from mathtransformer.analysis.predictions import load_predictions
from mathtransformer.data.tasks import get_task
from mathtransformer.evaluation.repair import REPAIRS, decomposition, jacobi, newton, polar, refine, residual
from mathtransformer.evaluation.solving import solve, view

TASKS = ("eigenvalues", "eigenvectors", "inversion")


def perturbed(size, n, noise, tied=False):
    """Matrices whose eigenvalues are well apart (or two of them equal), and nearly right answers."""
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(n, size, size)))[0]
    values = np.arange(1.0, size + 1) + rng.uniform(-0.2, 0.2, (n, size))
    values[:, 1] = values[:, 0] if tied else values[:, 1]
    inputs = (vectors * values[:, None]) @ vectors.mT
    return (inputs + inputs.mT) / 2, np.concatenate(
        [values[:, None], vectors + noise * rng.normal(size=vectors.shape)], 1
    )


@pytest.mark.parametrize("step", [refine, jacobi])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_steps_on_eigenvectors_are_quadratic(step, size):
    task = get_task("eigenvectors")
    inputs, answers = perturbed(size, 200, 1e-3)
    errors = [residual(task, inputs, answers)]
    for _ in range(2):
        answers = step(inputs, answers)
        errors.append(residual(task, inputs, answers))
    assert np.median(errors[0]) > 1e-3 and np.median(errors[1]) < 3e-5
    for before, after in zip(errors, errors[1:]):
        assert (after < 5 * before**2 + 1e-13).all()


def test_polar_gives_the_nearest_orthogonal_matrix():
    inputs, answers = perturbed(4, 100, 0.2)
    vectors = polar(inputs, answers)[:, 1:]
    np.testing.assert_allclose(vectors.mT @ vectors, np.broadcast_to(np.eye(4), inputs.shape), atol=1e-12)
    values = np.diagonal(vectors.mT @ inputs @ vectors, axis1=1, axis2=2)
    np.testing.assert_allclose(values, polar(inputs, answers)[:, 0], atol=1e-12)
    assert (np.diff(values, axis=1) >= 0).all()

    def distance(others):  # columns may be in another order
        every = np.abs(answers[:, 1:, :, None] - others[:, :, None]) ** 2
        return every.sum(1).min(2).sum(1)

    assert (distance(vectors) <= distance(np.linalg.qr(answers[:, 1:])[0]) + 1e-12).all()


def test_jacobi_converges_from_any_orthogonal_matrix():
    task, (inputs, targets) = get_task("eigenvectors"), sample("eigenvectors", 5, 500, rng=1)
    answers = decomposition(inputs, np.broadcast_to(np.eye(5), inputs.shape))
    for _ in range(7):
        answers = jacobi(inputs, answers)
    assert residual(task, inputs, answers).max() < 1e-12
    np.testing.assert_allclose(answers[:, 0], targets[:, 0], atol=1e-10)


def test_newton_squares_the_residual():
    rng = np.random.default_rng(0)
    inputs, targets = sample("inversion", 3, 300, rng=0)
    answers = targets @ (np.eye(3) + rng.normal(0, 1e-3, inputs.shape))
    off = np.eye(3) - inputs @ answers
    np.testing.assert_allclose(np.eye(3) - inputs @ newton(inputs, answers), off @ off, atol=1e-9)
    assert (residual(get_task("inversion"), inputs, newton(inputs, answers)) < 1e-4).mean() > 0.9


@pytest.mark.parametrize("step", list(REPAIRS["eigenvectors"].values()))
def test_equal_eigenvalues_give_numbers(step):
    task = get_task("eigenvectors")
    for inputs, answers in (
        perturbed(3, 100, 1e-3, tied=True),
        perturbed(3, 100, 0.0, tied=True),
        (np.zeros((2, 3, 3)), np.concatenate([np.zeros((2, 1, 3)), np.stack([np.eye(3)] * 2)], 1)),
        (np.stack([np.eye(3)] * 2), np.concatenate([np.ones((2, 1, 3)), np.stack([np.eye(3)] * 2)], 1)),
    ):
        after = step(inputs, answers)
        assert np.isfinite(after).all()
        assert residual(task, inputs, after).max() <= max(residual(task, inputs, answers).max(), 1e-9)


@pytest.mark.parametrize("name", TASKS)
def test_the_check_passes_exact_solutions_and_fails_nan(name):
    task, (inputs, targets) = get_task(name), sample(name, 4, 300, rng=0)
    assert residual(task, inputs, targets).max() < 1e-7
    wrong = targets.copy()
    wrong.reshape(300, -1)[:, 0] = np.nan
    assert np.isinf(residual(task, inputs, wrong)).all()
    assert residual(task, inputs[:0], targets[:0]).shape == (0,)


def test_the_check_of_eigenvectors_bounds_what_it_cannot_see():
    """Scaled solutions fool the error; and of orthogonal V, eigenvalues are nearer than the residual says."""
    task, (inputs, targets) = get_task("eigenvectors"), sample("eigenvectors", 4, 300, rng=0)
    scaled = targets * np.where(np.arange(5) == 0, 4.0, 2.0)[:, None]
    assert task.error(inputs, targets, scaled).max() < 1e-9 and residual(task, inputs, scaled).min() > 2.9
    rough = polar(inputs, targets + np.random.default_rng(0).normal(0, 0.1, targets.shape))
    distance = np.abs(rough[:, 0] - targets[:, 0]).sum(1) / np.abs(rough[:, 0]).sum(1)
    assert (distance <= residual(task, inputs, rough) + 1e-12).all()


def test_the_check_of_eigenvalues_is_necessary_and_not_sufficient():
    task, (inputs, targets) = get_task("eigenvalues"), sample("eigenvalues", 5, 2000, rng=0, spectrum="laplace")
    answers = targets + np.random.default_rng(0).normal(0, 3, targets.shape) * np.linspace(0, 1, 2000)[:, None]
    assert (residual(task, inputs, answers) <= task.error(inputs, targets, answers) + 1e-12).all()
    diagonal = np.diag([4.0, 1.0, 1.0])[None]
    fooled = np.array([[3.0, 3.0, 0.0]])  # the same sum and sum of squares
    assert (
        residual(task, diagonal, fooled)[0] < 1e-12 and task.error(diagonal, np.array([[4.0, 1, 1]]), fooled)[0] > 0.5
    )


@pytest.mark.parametrize("name", TASKS)
def test_views_are_equivalent_problems(name):
    task, (inputs, targets) = get_task(name), sample(name, 4, 300, rng=0)
    inputs[0] = 0 if task.symmetric else inputs[0]
    matrices, restore = view(task, inputs, (3.0, 7.0), np.random.default_rng(0))
    largest = np.abs(matrices[1:]).max((1, 2))
    assert largest.min() > 2.99 and largest.max() < 7.01 and not np.isclose(matrices, inputs).all((1, 2))[1:].any()
    restored = restore(task.solve(matrices))
    assert residual(task, inputs, restored).max() < 1e-7
    if name != "inversion":
        rows = (lambda a: a) if name == "eigenvalues" else (lambda a: a[:, 0])
        np.testing.assert_allclose(rows(restored)[1:], rows(targets)[1:], atol=1e-9)


def test_nan_answers_stay_wrong_and_only_wrong_ones_are_asked_again():
    task, (inputs, targets) = get_task("inversion"), sample("inversion", 3, 4, rng=0)
    seen = []

    def ask(matrices, attempt):
        seen.append(len(matrices))
        return np.where(np.arange(len(matrices))[:, None, None] < 2, np.nan, np.linalg.inv(matrices))

    solved = solve(task, inputs, ask, 0.05, 3, ["newton"])
    assert seen == [4, 2, 2] and solved.asked.tolist() == [3, 3, 1, 1]
    assert solved.ok.tolist() == [False, False, True, True] and np.isnan(solved.answers[:2]).all()
    assert np.isinf(solved.residual[:2]).all()
    np.testing.assert_allclose(solved.answers[2:], targets[2:])


def test_a_repair_never_makes_an_answer_worse():
    task, inputs, _, answers = (
        part if isinstance(part, str) else part[:3000] for part in load_predictions("inversion-3x3")
    )
    task = get_task(task)
    solved = solve(task, inputs, lambda matrices, attempt: answers, 0.0, 1, ["newton", "newton"])
    before = residual(task, inputs, answers)
    assert (residual(task, inputs, newton(inputs, answers)) > before).any()
    assert (solved.residual <= before).all() and np.array_equal(solved.residual, residual(task, inputs, solved.answers))


@pytest.mark.parametrize("name", ["eigenvalues-3x3-laplace", "eigenvectors-3x3", "inversion-3x3"])
def test_solve_takes_none_one_and_bad_input(name):
    run = load_run(name)
    inputs, _ = sample(run.config.task, 3, 1, rng=0)
    for n in (0, 1):
        solved = run.solve(inputs[:n], tries=2, repair=list(REPAIRS[run.config.task]))
        assert solved.answers.shape == (n, *run.model.asked) and len(solved.ok) == n
        assert (solved.residual < 0.05).tolist() == solved.ok.tolist()
    with pytest.raises(ValueError, match="solves 3x3 matrices"):
        run.solve(np.zeros((1, 4, 4)))
    with pytest.raises(ValueError, match="NaN"):
        run.solve(inputs * np.nan)
    with pytest.raises(ValueError, match="unknown repair"):
        run.solve(inputs, repair="nothing")
    with pytest.raises(ValueError, match="tolerance"):
        run.solve(inputs, tolerance=np.nan)
    with pytest.raises(ValueError, match="tries"):
        run.solve(inputs, tries=0)
    with pytest.raises(ValueError, match="unknown task that can be checked"):
        run.model.task = type("Other", (type(run.model.task),), {"name": "other"})()
        run.solve(inputs)


def shares(name, *steps):
    task, inputs, targets, answers = load_predictions(name)
    for step in steps:
        answers = step(inputs, answers)
    errors = get_task(task).error(inputs, targets, answers)
    return [(errors < tolerance).mean() for tolerance in (0.05, 0.01, 0.001)]


def test_headline_one_sweep_or_step_repairs_most_answers():
    assert shares("eigenvectors-5x5-components")[0] == pytest.approx(0.8685, abs=0.008)
    assert shares("eigenvectors-5x5-components", polar)[0] == pytest.approx(0.941, abs=0.006)
    for name in ("eigenvectors-5x5-components", "eigenvectors-5x5"):
        assert min(shares(name, jacobi)) > 0.95 and min(shares(name, jacobi, jacobi)) > 0.998
    assert shares("inversion-3x3", newton)[0] == pytest.approx(0.9655, abs=0.003)


def test_what_a_sweep_leaves_at_3x3_is_one_wrong_sign():
    _, inputs, targets, answers = (part[:10_000] for part in load_predictions("eigenvectors-3x3"))
    task = get_task("eigenvectors")
    left = task.error(inputs, targets, jacobi(inputs, answers)) >= 0.01
    inputs, answers, best = inputs[left], answers[left], np.inf
    for row, column in np.ndindex(3, 3):
        changed = answers.copy()
        changed[:, 1 + row, column] *= -1
        best = np.minimum(best, residual(task, inputs, polar(inputs, changed)))
    assert 30 <= len(inputs) <= 46 and (best < 0.05).mean() > 0.95
    assert residual(task, inputs, polar(inputs, answers)).min() > 0.05


def test_equivalent_problems_help_and_bring_scaled_matrices_back():
    run = load_run("eigenvectors-3x3")
    inputs = load_predictions("eigenvectors-3x3")[1][:200]
    once, twice = (run.solve(3 * inputs, tries=tries) for tries in (1, 2))
    assert once.ok.mean() < 0.1 and twice.ok.mean() > 0.9
    assert twice.asked.mean() == 1 + (~once.ok).mean()
