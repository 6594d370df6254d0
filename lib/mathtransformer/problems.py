"""The problems: random matrices with a chosen spectrum, and the tasks that a transformer learns to solve on them.

To add a task, write one class like those below and put an instance into TASKS: its name, whether its matrices
are symmetric, the shape of its solution, how to solve a batch, and how to judge a batch of predictions. Encoding,
model, training, prediction and the command line take it from there.

Source of all definitions: Charton 2022 (arXiv 2211.00170) and its code. M is an n x n matrix, N the number of examples.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod

import numpy as np

from .canonical import Restore, canonical_matrices, canonical_symmetric, sign, unchanged
from .encodings import choose

SPECTRA = ("semicircle", "uniform", "gaussian", "laplace", "positive", "positive2", "marcenko")
ENTRIES = ("uniform", "normal")
MAX_SIZE = 20
MAX_ENTRIES = 10**9  # of all the matrices of one `sample`: 8 GB
LIMIT = 10.0  # entries are uniform in [-LIMIT, LIMIT], or normal with the same standard deviation


class Task(ABC):
    """One task. `symmetric`: whether M is symmetric, and so has a spectrum to choose."""

    name: str
    symmetric = True

    @abstractmethod
    def target_shape(self, size: int) -> tuple[int, ...]:
        """Shape of one solution."""

    @abstractmethod
    def solve(self, inputs: np.ndarray) -> np.ndarray:
        """(N, n, n) matrices -> (N, *target_shape(n)) exact solutions."""

    def richer_shape(self, size: int) -> tuple[int, ...]:
        """Shape of one richer solution, see `solve_richer`."""
        return self.target_shape(size)

    def solve_richer(self, inputs: np.ndarray) -> np.ndarray:
        """(N, *richer_shape(n)) solutions followed by what helps to learn them: ModelOptions.cotrain writes these.

        They must begin, read in order, with the solution itself. A task that knows nothing better keeps this one.
        """
        return self.solve(inputs)

    def components(self, inputs: np.ndarray) -> np.ndarray:
        """(N, n, n) matrices -> (N, n, n, n) what M is the sum of, but for factors; the last index counts the terms.

        n v_k v_k^T for eigenvalues in ascending order, where M = sum lambda_k v_k v_k^T; if M is not symmetric,
        n u_k v_k^T for singular values in descending order, where M = sum s_k u_k v_k^T and M^-1 = sum v_k u_k^T / s_k.
        Unlike v_k they have no sign to choose; n makes their entries of order one. See ModelOptions.components.
        """
        if self.symmetric:
            left = right = np.linalg.eigh(inputs)[1]
        else:
            left, _, right = np.linalg.svd(inputs)
            right = right.transpose(0, 2, 1)
        return inputs.shape[-1] * left[:, :, None] * right[:, None]

    def canonical(self, inputs: np.ndarray) -> tuple[np.ndarray, Restore]:
        """(N, n, n) matrices -> others that stand for them, and what takes solutions of these to solutions of those.

        A task that knows no symmetry keeps this one. See ModelOptions.canonical_input.
        """
        return inputs, unchanged

    def solvable(self, inputs: np.ndarray) -> np.ndarray:
        """(N,) whether each matrix has a solution that can be written; those that have none are never asked."""
        return np.ones(len(inputs), bool)

    @abstractmethod
    def relative_error(self, inputs: np.ndarray, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """(N,) what is compared with the tolerance; may be NaN, see `error`."""

    def error(self, inputs: np.ndarray, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """(N,) relative errors; infinite where the prediction has a NaN, so that it counts as wrong."""
        with np.errstate(all="ignore"):
            error = self.relative_error(inputs, targets, predictions)
        return np.where(np.isnan(error), np.inf, error)


def total(array: np.ndarray) -> np.ndarray:
    """(N, ...) -> (N,) sums of absolute values."""
    return np.abs(array).reshape(len(array), -1).sum(1) if len(array) else np.zeros(0)


def relative(difference: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(N, ...), (N, ...) -> (N,) sum |difference| / sum |scale|; no difference is no error, even on a scale of zero."""
    difference, scale = total(difference), total(scale)
    with np.errstate(all="ignore"):
        return np.where(difference == 0, 0.0, difference / scale)


class Eigenvalues(Task):
    """Eigenvalues in descending order; error: sum |predicted - true| / sum |true|."""

    name = "eigenvalues"

    def target_shape(self, size):
        return (size,)

    def solve(self, inputs):
        return np.linalg.eigvalsh(inputs)[:, ::-1]

    def richer_shape(self, size):
        return (size + 1, size)

    def solve_richer(self, inputs):
        """The eigenvalues, then the eigenvectors in the same, descending order."""
        return TASKS["eigenvectors"].solve(inputs)[..., ::-1]

    def canonical(self, inputs):
        return canonical_symmetric(inputs)[0], unchanged

    def relative_error(self, inputs, targets, predictions):
        return relative(predictions - targets, targets)


class Eigenvectors(Task):
    """The eigendecomposition: row 0 the eigenvalues, ascending; below, V with the eigenvectors in columns.

    Error: sum |V^T M V - diag(predicted eigenvalues)| / sum |predicted eigenvalues|. Flipping the sign of an
    eigenvector leaves it unchanged, so a solution may fix the signs.
    """

    name = "eigenvectors"

    def target_shape(self, size):
        return (size + 1, size)

    def solve(self, inputs, canonical_sign: bool = True):
        """`canonical_sign`: make the first component of each eigenvector positive; else LAPACK's signs."""
        eigenvalues, vectors = np.linalg.eigh(inputs)
        if canonical_sign:
            vectors = vectors * sign(vectors[:, :1])
        return np.concatenate([eigenvalues[:, None], vectors], axis=1)

    def canonical(self, inputs):
        return canonical_symmetric(inputs)

    def relative_error(self, inputs, targets, predictions):
        eigenvalues, vectors = predictions[:, 0], predictions[:, 1:]
        rotated = vectors.transpose(0, 2, 1) @ inputs @ vectors
        return relative(rotated - eigenvalues[:, None] * np.eye(inputs.shape[-1]), eigenvalues)


class Inversion(Task):
    """The inverse P of M; error: sum |M P - I| / n."""

    name = "inversion"
    symmetric = False

    def target_shape(self, size):
        return (size, size)

    def solve(self, inputs):
        return np.linalg.inv(inputs)

    def canonical(self, inputs):
        return canonical_matrices(inputs)

    def solvable(self, inputs):
        """A determinant so large that the inverse, by Hadamard's bound on the cofactors, stays below 1e8.

        One matrix in a million is singular once its entries are rounded to three digits.
        """
        n = inputs.shape[-1]
        return np.abs(np.linalg.det(inputs)) > 1e-8 * (LIMIT * np.sqrt(max(n - 1, 1))) ** (n - 1)

    def relative_error(self, inputs, targets, predictions):
        return total(inputs @ predictions - np.eye(inputs.shape[-1])) / inputs.shape[-1]


TASKS = {task.name: task for task in (Eigenvalues(), Eigenvectors(), Inversion())}


def get_task(name: str) -> Task:
    """The task of that name; ValueError with the near matches for any other."""
    choose("task", name, TASKS)
    return TASKS[name]


def draw_entries(shape: tuple[int, ...], rng: np.random.Generator, entries: str, limit: float = LIMIT) -> np.ndarray:
    if entries == "uniform":
        return rng.uniform(-limit, limit, shape)
    return rng.normal(0.0, limit / np.sqrt(3), shape)


def wigner(size: int, n: int, rng: np.random.Generator, entries: str) -> np.ndarray:
    """(n, size, size) symmetric matrices: the lower triangle of random entries, mirrored."""
    full = draw_entries((n, size, size), rng, entries)
    rows, columns = np.triu_indices(size, 1)
    full[:, rows, columns] = full[:, columns, rows]
    return full


def draw_eigenvalues(spectrum: str, wigner_eigenvalues: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Eigenvalues (N, n) of the named spectrum, with sigma = 10 sqrt(n / 3), the Wigner matrix's own scale."""
    shape = wigner_eigenvalues.shape
    sigma = np.sqrt(shape[1]) * LIMIT / np.sqrt(3)
    if spectrum == "uniform":
        return rng.uniform(-sigma * np.sqrt(3), sigma * np.sqrt(3), shape)
    if spectrum == "gaussian":
        return rng.normal(0.0, sigma, shape)
    if spectrum == "laplace":
        return rng.laplace(0.0, sigma / np.sqrt(2), shape)
    if spectrum == "positive2":
        return np.abs(rng.laplace(0.0, sigma / np.sqrt(2), shape))
    return np.abs(wigner_eigenvalues)  # positive


def draw(
    task: str, size: int, n: int, rng: np.random.Generator, spectrum: str = "semicircle", entries: str = "uniform"
) -> np.ndarray:
    """n random matrices (n, size, size) of a task; see `sample` for the arguments."""
    solver = get_task(task)
    if not solver.symmetric:
        matrices = draw_entries((n, size, size), rng, entries)
        while (unsolvable := ~solver.solvable(matrices)).any():
            matrices[unsolvable] = draw_entries((int(unsolvable.sum()), size, size), rng, entries)
        return matrices
    if spectrum == "marcenko":
        factor = draw_entries((n, size, size), rng, entries, limit=np.sqrt(LIMIT))
        product = factor.transpose(0, 2, 1) @ factor
        return (product + product.transpose(0, 2, 1)) / 2
    matrices = wigner(size, n, rng, entries)
    if spectrum == "semicircle":
        return matrices
    eigenvalues, vectors = np.linalg.eigh(matrices)
    eigenvalues = draw_eigenvalues(spectrum, eigenvalues, rng)
    rebuilt = (vectors * eigenvalues[:, None]) @ vectors.transpose(0, 2, 1)
    return (rebuilt + rebuilt.transpose(0, 2, 1)) / 2


def whole_number(what: str, value, low: int, high: int | None = None) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except (TypeError, RuntimeError):  # a tensor on PyTorch's meta device has no value
        raise TypeError(f"{what} must be a whole number, got {value!r:.80}") from None
    if number < low or (high is not None and number > high):
        span = f"from {low} to {high}" if high is not None else f"at least {low}"
        raise ValueError(f"{what} must be {span}, got {number}")
    return number


def sample(
    task: str, size: int, n: int, rng: np.random.Generator, spectrum: str = "semicircle", entries: str = "uniform"
) -> tuple[np.ndarray, np.ndarray]:
    """n random problems of a task, with their exact solutions, in float64.

    size: the matrices are size x size, 1 to 20. n: how many, with 10^9 entries at most. spectrum (symmetric tasks):
    one of SPECTRA; all but "semicircle" and "marcenko" keep a Wigner draw's eigenvectors and replace its eigenvalues.
    entries: "uniform" in [-10, 10], or "normal" with standard deviation 10 / sqrt(3); for "marcenko" they are those
    of A in A^T A, on the scale sqrt(10). Returns inputs (n, size, size) and targets (n, *target shape).
    Raises ValueError or TypeError.
    """
    solver = get_task(task)
    choose("spectrum", spectrum, SPECTRA)
    choose("entries", entries, ENTRIES)
    try:
        size = whole_number("size (of the matrices)", size, 1, MAX_SIZE)
    except ValueError as error:
        fits = isinstance(n, (int, np.integer)) and 1 <= n <= MAX_SIZE
        hint = f"; size and n = {n} may be swapped" if fits else ""
        raise ValueError(f"{error}{hint}") from None
    n = whole_number("n (the number of examples)", n, 0)
    if n * size**2 > MAX_ENTRIES:
        raise ValueError(f"n (the number of examples) must be at most {MAX_ENTRIES // size**2} at size {size}, got {n}")
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy Generator such as numpy.random.default_rng(0), got {type(rng).__name__}")
    if spectrum != "semicircle" and not solver.symmetric:
        raise ValueError(f"{task} has no spectrum to choose, got {spectrum!r}")
    inputs = draw(task, size, n, rng, spectrum, entries)
    return inputs, np.ascontiguousarray(solver.solve(inputs))
