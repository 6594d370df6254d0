"""Random problems: their statistics against theory, their solutions, and what is refused."""

import time

import numpy as np
import pytest
import torch

from mathtransformer.checks import as_matrices
from mathtransformer.data.encodings import encoding
from mathtransformer.data.matrices import ENTRIES, SPECTRA, STUDIED
from mathtransformer.data.tasks import TASKS, get_task, sample
from mathtransformer.training.presets import PRESETS


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_symmetric_and_solved(spectrum, size):
    inputs, targets = sample("eigenvectors", size, 200, generator(), spectrum)
    np.testing.assert_array_equal(inputs, inputs.transpose(0, 2, 1))
    eigenvalues, vectors = targets[:, 0], targets[:, 1:]
    assert (np.diff(eigenvalues, axis=1) >= 0).all()
    assert (vectors[:, 0] >= 0).all()
    rebuilt = vectors @ (eigenvalues[:, :, None] * vectors.transpose(0, 2, 1))
    np.testing.assert_allclose(rebuilt, inputs, atol=1e-9)
    descending = sample("eigenvalues", size, 200, generator(), spectrum)[1]
    np.testing.assert_allclose(descending, eigenvalues[:, ::-1], atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_components_are_what_matrices_and_inverses_are_made_of(size):
    inputs, targets = sample("eigenvectors", size, 50, generator())
    parts = get_task("eigenvectors").components(inputs) / size
    np.testing.assert_allclose((parts * targets[:, 0, None, None]).sum(-1), inputs, atol=1e-9)
    np.testing.assert_allclose(np.einsum("nijk,njlk->nilk", parts, parts), parts, atol=1e-9)  # projectors
    inputs, inverses = sample("inversion", size, 50, generator())
    parts = get_task("inversion").components(inputs) / size
    singular_values = np.linalg.svd(inputs, compute_uv=False)[:, None, None]
    np.testing.assert_allclose((parts * singular_values).sum(-1), inputs, atol=1e-9)
    np.testing.assert_allclose((parts / singular_values).sum(-1).transpose(0, 2, 1), inverses, rtol=1e-6)


# Moments of one eigenvalue over sigma: mean, mean square, mean fourth power; None where theory gives no short answer.
MOMENTS = {
    "semicircle": (0, 1, None),
    "uniform": (0, 1, 9 / 5),
    "gaussian": (0, 1, 3),
    "laplace": (0, 1, 6),
    "positive": (None, 1, None),
    "positive2": (np.sqrt(0.5), 1, 6),
}


@pytest.mark.parametrize("spectrum", MOMENTS)
@pytest.mark.parametrize("entries", ["uniform", "normal"])
def test_moments_of_spectra(spectrum, entries):
    size = 5
    _, eigenvalues = sample("eigenvalues", size, 40_000, generator(1), spectrum, entries)
    scaled = eigenvalues / (np.sqrt(size) * 10 / np.sqrt(3))
    for power, expected in zip((1, 2, 4), MOMENTS[spectrum]):
        if expected is not None:
            assert np.mean(scaled**power) == pytest.approx(expected, abs=0.02, rel=0.04)
    assert (eigenvalues.min() >= 0) == spectrum.startswith("positive")


@pytest.mark.parametrize("entries", ["uniform", "normal"])
def test_marcenko_mean_and_positivity(entries):
    _, eigenvalues = sample("eigenvalues", 5, 40_000, generator(), "marcenko", entries)
    assert eigenvalues.min() > -1e-9
    assert eigenvalues.mean() == pytest.approx(5 * 10 / 3, rel=0.02)  # n times the variance of an entry of A


def test_entries_of_a_wigner_matrix():
    inputs, _ = sample("eigenvalues", 4, 20_000, generator())
    assert np.abs(inputs).max() <= 10
    assert inputs.std() == pytest.approx(10 / np.sqrt(3), rel=0.01)
    normal, _ = sample("inversion", 4, 20_000, generator(), entries="normal")
    assert normal.std() == pytest.approx(10 / np.sqrt(3), rel=0.01)
    assert np.abs(normal).max() > 20


def test_inversion():
    inputs, targets = sample("inversion", 3, 1000, generator())
    np.testing.assert_allclose(inputs @ targets, np.broadcast_to(np.eye(3), inputs.shape), atol=1e-6)
    solvable = get_task("inversion").solvable(np.array([np.eye(2), np.ones((2, 2))]))
    assert solvable.tolist() == [True, False]


@pytest.mark.parametrize("task", TASKS)
def test_richer_solutions_begin_with_the_solution(task):
    inputs, targets = sample(task, 4, 100, generator())
    richer = get_task(task).solve_richer(inputs)
    assert richer.shape[1:] == get_task(task).richer_shape(4)
    beginning = richer.reshape(100, -1)[:, : targets[0].size]
    np.testing.assert_allclose(beginning, targets.reshape(100, -1), rtol=1e-9, atol=1e-9)


def test_richer_eigenvalues_are_eigenvectors_in_the_same_order():
    inputs, _ = sample("eigenvalues", 4, 100, generator())
    richer = get_task("eigenvalues").solve_richer(inputs)
    np.testing.assert_allclose(inputs @ richer[:, 1:], richer[:, 1:] * richer[:, :1], atol=1e-9)
    assert (richer[:, 1] > 0).all()


@pytest.mark.parametrize("task", TASKS)
def test_same_generator_same_problems(task):
    first, second, other = (sample(task, 3, 10, generator(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert (first[0] != other[0]).any()
    empty = sample(task, 3, 0, generator())
    assert empty[0].shape == (0, 3, 3) and empty[1].shape == (0, *TASKS[task].target_shape(3))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("eigenvalue", 3, 1), {}, ValueError, "eigenvalues"),
        (("eigenvalues", 3, 1), {"spectrum": "laplas"}, ValueError, "laplace"),
        (("eigenvalues", 3, 1), {"entries": "gaussian"}, ValueError, "normal"),
        (("eigenvalues", 0, 1), {}, ValueError, "from 1 to 20"),
        (("eigenvalues", 21, 1), {}, ValueError, "from 1 to 20"),
        (("eigenvalues", 1000, 5), {}, ValueError, "swapped"),
        (("eigenvalues", 1000, np.int64(5)), {}, ValueError, "swapped"),
        (("eigenvalues", 2.5, 1), {}, TypeError, "whole number"),
        (("eigenvalues", "3", 1), {}, TypeError, "whole number"),
        (("eigenvalues", 3, -1), {}, ValueError, "at least 0"),
        (("eigenvalues", 3, 1.5), {}, TypeError, "number of examples"),
        (("inversion", 3, 1), {"spectrum": "laplace"}, ValueError, "no spectrum"),
    ],
)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        sample(*arguments, generator(), **options)


def test_bad_generator():
    with pytest.raises(TypeError, match="rng .if not a numpy Generator, then a seed. must be a whole number"):
        sample("eigenvalues", 3, 1, np.random.RandomState(0))


def test_a_seed_or_nothing_serves_as_generator():
    first, second, third = (sample("inversion", 2, 5, rng)[0] for rng in (3, 3, None))
    np.testing.assert_array_equal(first, second)
    assert (first != third).all()


def test_a_spectrum_of_ones_own(monkeypatch):
    """One entry of the table is all it takes, and changes nothing else."""
    monkeypatch.setitem(
        SPECTRA, "identity", lambda size, n, rng, entries: np.broadcast_to(np.eye(size), (n, size, size))
    )
    assert (sample("eigenvalues", 3, 5, 0, "identity")[1] == 1).all()
    assert all(callable(spectrum) for spectrum in SPECTRA.values())
    assert set(STUDIED) < set(SPECTRA) and all(set(preset.tested) <= set(STUDIED) for preset in PRESETS.values())


@pytest.mark.parametrize("entries", ["uniform", "normal"])
def test_inverses_that_are_asked_can_be_written(entries):
    task = get_task("inversion")
    assert not task.solvable(np.array([[[25.0, 25.0], [25.0, 25.0 + 5e-9]]]))[0]
    for size in (1, 2, 5):
        matrices = np.concatenate([sample("inversion", size, 20_000, 0, entries=entries)[0], np.zeros((1, size, size))])
        matrices[:10_000, -1] = matrices[:10_000, 0] + 10.0 ** -np.arange(10_000)[:, None].clip(0, 12)  # near singular
        good = task.solvable(matrices)
        assert np.abs(task.solve(matrices[good])).max() < 1e8
        assert 0.4 < good.mean() < 1 and not good[-1]


GOOD = np.broadcast_to(np.eye(3), (4, 3, 3))


def spoiled(place, value):
    array = GOOD.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (GOOD[0], ValueError, "M\\[None\\]"),
        (GOOD[:, :2], ValueError, "shape"),
        (np.zeros((1, 21, 21)), ValueError, "from 1 to 20"),
        (np.zeros((1, 0, 0)), ValueError, "from 1 to 20"),
        (spoiled((2, 0, 0), np.nan), ValueError, "example 2 has NaN"),
        (spoiled((3, 1, 1), -np.inf), ValueError, "example 3 has NaN or infinity"),
        (spoiled((1, 0, 2), 1e-3), ValueError, "example 1 has a difference"),
        (spoiled((1, 0, 0), 1e9), ValueError, "example 1 has an entry of magnitude"),
        (GOOD + 1j, TypeError, "complex"),
        (GOOD.astype(str), TypeError, "real numbers"),
        (GOOD > 0, TypeError, "bool"),
    ],
)
def test_check_inputs_names_the_problem(inputs, error, message):
    with pytest.raises(error, match=message):
        as_matrices(inputs, True, 9.995e8, 20)


def test_check_inputs_takes_what_is_good():
    np.testing.assert_array_equal(as_matrices(GOOD.astype(int).tolist(), True, 9.995e8, 20), GOOD)
    assert as_matrices(spoiled((1, 0, 2), 5), False, 9.995e8, 20).dtype == np.float64


@pytest.mark.parametrize("dtype", [torch.int64, torch.bfloat16, torch.float32])
def test_check_inputs_takes_tensors(dtype):
    tensor = torch.eye(3, dtype=dtype)[None].requires_grad_(dtype.is_floating_point)
    np.testing.assert_array_equal(as_matrices(tensor, True, 9.995e8, 20), GOOD[:1])


def test_generation_is_fast():
    """A loose floor for shared machines; data/results/bench.csv has some 300,000 a second on one core."""
    best = np.inf
    for _ in range(3):
        begun = time.perf_counter()
        inputs, targets = sample("eigenvalues", 5, 20_000, generator())
        encoding("FP15").encode(inputs), encoding("FP15").encode(targets)
        best = min(best, time.perf_counter() - begun)
    assert 20_000 / best > 60_000


@pytest.mark.parametrize("entries", ENTRIES)
@pytest.mark.parametrize("size", [1, 2, 13, 20])
def test_matrices_to_invert_are_found_at_any_size(size, entries):
    """A bound on the inverse that is too careful would refuse every large matrix, and `sample` would never end."""
    inputs, targets = sample("inversion", size, 50, 0, entries=entries)
    assert np.abs(targets).max() < 1e8
    np.testing.assert_allclose(inputs @ targets, np.broadcast_to(np.eye(size), inputs.shape), atol=1e-8)
    assert TASKS["inversion"].solvable(np.random.default_rng(1).uniform(-10, 10, (1000, size, size))).mean() > 0.99


def test_eigenvectors_of_rebuilt_spectra_are_rows_as_in_the_official_code():
    """Standard deviations of entries that the official code draws: they differ from place to place."""
    diagonal = sample("eigenvalues", 5, 40_000, generator(), "positive")[0].diagonal(axis1=1, axis2=2).std(0)
    np.testing.assert_allclose(diagonal, [3.18, 3.58, 3.50, 3.54, 3.17], rtol=0.02)
    upper = sample("eigenvalues", 5, 40_000, generator(), "laplace")[0][:, *np.triu_indices(5, 1)].std(0)
    assert upper.min() < 4.8 and upper.max() > 5.4
