"""Tasks from outside the library: what a reader writes is all that is needed, whatever the shape of the solution."""

import numpy as np
import pytest

from mathtransformer import load_run, sample, train
from mathtransformer.data import measures
from mathtransformer.data.tasks import TASKS, Task
from mathtransformer.training import progress
from mathtransformer.training.config import RECIPES, Config


class SingularValues(Task):
    """Row 0 the singular values, then U, then V, so that M = U diag(s) V^T."""

    name, symmetric = "svd", False

    def solve(self, inputs):
        left, values, right = np.linalg.svd(inputs)
        return np.concatenate([values[:, None], left, right.mT], axis=1)

    def relative_error(self, inputs, targets, predictions):
        n = inputs.shape[-1]
        values, left, right = predictions[:, 0], predictions[:, 1 : n + 1], predictions[:, n + 1 :]
        return measures.relative((left * values[:, None]) @ right.mT - inputs, inputs)


class Determinant(Task):
    """A single number."""

    name = "determinant"

    def solve(self, inputs):
        return np.linalg.det(inputs)

    def relative_error(self, inputs, targets, predictions):
        return measures.relative(predictions - targets, targets)


class Projectors(Determinant):
    """Three dimensions: v_k v_k^T for every eigenvector."""

    name = "projectors"

    def target_shape(self, size):  # may be said, where to solve the identity would be dear
        return (size, size, size)

    def solve(self, inputs):
        assert inputs.shape[-1] < 20
        return self.components(inputs)


def trained(task, size, recipe, monkeypatch, folder, **options):
    monkeypatch.setitem(TASKS, task.name, task)
    monkeypatch.setattr(progress, "PROBLEMS", 10)
    monkeypatch.setattr(progress, "SHARES", (1.0,))  # the end, besides the beginning
    small = {"width": 16, "heads": 2, "encoder_layers": 1, "precision": "float32", **options}
    config = Config.of(task.name, size, {"examples": 6, "batch": 2}, recipe=recipe, **small)
    watched = []
    assert train(config, folder, compiled=False, show=False, threads=1, watch=watched.append) == 0
    run = load_run(folder)
    assert [table.step.tolist() for table in watched] == [[0], [0, 3]]
    assert list(watched[-1]) == list(run.log) and watched[-1].loss.iloc[-1] == pytest.approx(
        run.log.loss.iloc[-1], rel=1e-5
    )
    return run


@pytest.mark.parametrize(("recipe", "components"), [("fast", 5.0), ("fast", 0.0), ("paper", 0.0)])
@pytest.mark.parametrize("size", [3, 12])
def test_singular_values(recipe, components, size, monkeypatch, tmp_path):
    run = trained(SingularValues(), size, recipe, monkeypatch, tmp_path / "run", components=components)
    inputs, targets = sample("svd", size, 5, 0)
    assert TASKS["svd"].error(inputs, targets, targets).max() < 1e-12
    assert run.predict(inputs).shape == targets.shape == (5, 2 * size + 1, size)
    assert run.info["steps"] == 3 and run.info["last"]["loss"] < 50


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("task", [Determinant(), Projectors()], ids=lambda task: task.name)
def test_solutions_of_any_number_of_dimensions(task, recipe, monkeypatch, tmp_path):
    run = trained(task, 3, recipe, monkeypatch, tmp_path / "run")
    inputs, targets = sample(task.name, 3, 5, 0)
    assert run.predict(inputs).shape == targets.shape == (5, *task.target_shape(3))
    assert len(run.predict(inputs[:0])) == 0
