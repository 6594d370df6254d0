"""The tasks that a transformer learns: their matrices, exact solutions, and how a solution is judged.

To add a task, write one class like those below and put an instance into TASKS. Encoding, model, training, prediction
and the command line take it from there.

Source of all definitions: Charton 2022 (arXiv 2211.00170) and its code. M is an n x n matrix, N the number of examples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from ..checks import check_name, whole_number
from . import measures
from .canonical import Restore, canonical_matrices, canonical_symmetric, sign, unchanged
from .matrices import ENTRIES, MAX_SIZE, SPECTRA, square

MAX_ENTRIES = 10**9  # of all the matrices of one `sample`: 8 GB


class Task(ABC):
    """One task. `symmetric`: whether M is symmetric, and so has a spectrum to choose.

    Optional methods, None for a task that has no such law. `rescaled`: takes solutions of factor * M, and the factors
    (N,), to solutions of M. `shifted`: takes solutions of M - cI, and c (N,), to solutions of M. `turned`: takes
    solutions of L M R, with L and R orthogonal (N, n, n), and R = L^T if M is symmetric, to solutions of M. `residual`:
    inputs and answers -> (N,) see `repair.residual`.
    """

    name: str
    symmetric = True
    rescaled: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    shifted: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    turned: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
    residual: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None

    # What must be written for a new task.

    @abstractmethod
    def solve(self, inputs: np.ndarray) -> np.ndarray:
        """(N, n, n) matrices -> exact solutions (N, ...), of any number of dimensions."""

    @abstractmethod
    def relative_error(self, inputs: np.ndarray, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """(N,) what is compared with the tolerance; may be NaN, see `error`."""

    # What has a sensible answer for any task.

    def target_shape(self, size: int) -> tuple[int, ...]:
        """Shape of one solution. Seen by solving the identity, of any size up to 20: or else write this method, too."""
        return self.solve(np.eye(size)[None]).shape[1:]

    def solvable(self, inputs: np.ndarray) -> np.ndarray:
        """(N,) whether each matrix has a solution that can be written; those that have none are never asked."""
        return np.ones(len(inputs), bool)

    def canonical(self, inputs: np.ndarray, by: np.ndarray | None = None) -> tuple[np.ndarray, Restore]:
        """(N, n, n) matrices -> equivalent ones, and the function that takes solutions of these to those of `inputs`.

        Many matrices share one canonical matrix. by: the rounded inputs, if these are to decide which it is. A task
        that knows no such symmetry keeps this method, which changes nothing. See ModelOptions.canonical_input.
        """
        return inputs, unchanged

    def richer_shape(self, size: int) -> tuple[int, ...]:
        """Shape of one richer solution, see `solve_richer`."""
        return self.target_shape(size)

    def solve_richer(self, inputs: np.ndarray) -> np.ndarray:
        """(N, *richer_shape(n)) solutions followed by what helps to learn them: ModelOptions.cotrain writes these.

        They must begin, read in order, with the solution itself.
        """
        return self.solve(inputs)

    def lesson(self, inputs: np.ndarray, richer: bool, canonical_sign: bool) -> np.ndarray:
        """What a training shows as the solution. `canonical_sign` matters to eigenvectors only."""
        return self.solve_richer(inputs) if richer else self.solve(inputs)

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
            right = right.mT
        return inputs.shape[-1] * left[:, :, None] * right[:, None]

    def error(self, inputs: np.ndarray, targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """(N,) relative errors; infinite where the prediction has a NaN, so that it counts as wrong."""
        with np.errstate(all="ignore"):
            error = self.relative_error(inputs, targets, predictions)
        return np.where(np.isnan(error), np.inf, error)

    def properties(self, inputs: np.ndarray, targets: np.ndarray, predictions: np.ndarray) -> dict[str, np.ndarray]:
        """Columns (N,) that say in what a prediction is right, besides its `error`."""
        return {}

    def problem_properties(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Columns (N,) known before solving: `cond_M` and, if M is symmetric, `gap` (measures.relative_gap)."""
        columns = {"cond_M": measures.condition_number(inputs)}
        return columns | ({"gap": measures.relative_gap(inputs)} if self.symmetric else {})


class Eigenvalues(Task):
    """Eigenvalues in descending order; error: sum |predicted - true| / sum |true|."""

    name = "eigenvalues"

    def solve(self, inputs):
        return np.linalg.eigvalsh(inputs)[:, ::-1]

    def richer_shape(self, size):
        return (size + 1, size)

    def solve_richer(self, inputs):
        """The eigenvalues, then the eigenvectors in the same, descending order."""
        return TASKS["eigenvectors"].solve(inputs)[..., ::-1]

    def canonical(self, inputs, by=None):
        return canonical_symmetric(inputs, by)[0], unchanged

    def rescaled(self, solutions, factors):
        return solutions / factors[:, None]

    def shifted(self, solutions, shifts):
        return solutions + shifts[:, None]

    def turned(self, solutions, left, right):
        return solutions

    def residual(self, inputs, answers):
        return measures.least_error(inputs, answers)

    def relative_error(self, inputs, targets, predictions):
        return measures.relative(predictions - targets, targets)


class Eigenvectors(Task):
    """The eigendecomposition: row 0 the eigenvalues, ascending; below, V with the eigenvectors in columns.

    Error: sum |V^T M V - diag(predicted eigenvalues)| / sum |predicted eigenvalues|. Flipping the sign of an
    eigenvector leaves it unchanged, so a solution may fix the signs.
    """

    name = "eigenvectors"

    def solve(self, inputs, canonical_sign: bool = True):
        """`canonical_sign`: make the first component of each eigenvector positive; else LAPACK's signs."""
        eigenvalues, vectors = np.linalg.eigh(inputs)
        if canonical_sign:
            vectors = vectors * sign(vectors[:, :1])
        return np.concatenate([eigenvalues[:, None], vectors], axis=1)

    def lesson(self, inputs, richer, canonical_sign):
        return self.solve(inputs, canonical_sign)

    def canonical(self, inputs, by=None):
        return canonical_symmetric(inputs, by)

    def rescaled(self, solutions, factors):
        return np.concatenate([solutions[:, :1] / factors[:, None, None], solutions[:, 1:]], axis=1)

    def shifted(self, solutions, shifts):
        return np.concatenate([solutions[:, :1] + shifts[:, None, None], solutions[:, 1:]], axis=1)

    def turned(self, solutions, left, right):
        return np.concatenate([solutions[:, :1], left.mT @ solutions[:, 1:]], axis=1)

    def residual(self, inputs, answers):
        """The error, or the largest entry of |V^T V - I| if larger: cV, c^2 lambda have the error of V, lambda."""
        vectors = answers[:, 1:]
        unlike = measures.worst(np.abs(vectors.mT @ vectors - np.eye(inputs.shape[-1])))
        return np.maximum(self.error(inputs, answers, answers), unlike)  # which looks at no targets

    def relative_error(self, inputs, targets, predictions):
        eigenvalues, vectors = predictions[:, 0], predictions[:, 1:]
        rotated = vectors.mT @ inputs @ vectors
        return measures.relative(rotated - eigenvalues[:, None] * np.eye(inputs.shape[-1]), eigenvalues)

    def properties(self, inputs, targets, predictions):
        """`eigenvalues` (relative error, as for that task), `norm`, `orthogonality` over all pairs and as the official
        notebook has it, and `cond_V`, the condition number of the predicted V."""
        vectors = predictions[:, 1:]
        return {
            "eigenvalues": measures.relative(predictions[:, 0] - targets[:, 0], targets[:, 0]),
            "norm": measures.norm_error(vectors),
            "orthogonality": measures.orthogonality(vectors),
            "orthogonality_official": measures.orthogonality_official(vectors),
            "cond_V": measures.condition_number(vectors),
        }


class Inversion(Task):
    """The inverse P of M; error: sum |M P - I| / n."""

    name = "inversion"
    symmetric = False

    def solve(self, inputs):
        return np.linalg.inv(inputs)

    def canonical(self, inputs, by=None):
        return canonical_matrices(inputs, by)

    def rescaled(self, solutions, factors):
        return solutions * factors[:, None, None]

    def turned(self, solutions, left, right):
        return right @ solutions @ left

    def residual(self, inputs, answers):
        return self.error(inputs, answers, answers)  # which looks at no targets

    def solvable(self, inputs):
        """An inverse with entries below 1e8.

        One matrix in a million is singular once its entries are rounded to three digits.
        """
        regular = np.linalg.det(inputs) != 0
        inverses = np.linalg.inv(np.where(regular[:, None, None], inputs, np.eye(inputs.shape[-1])))
        return regular & (np.abs(inverses).max((1, 2), initial=0) < 1e8)

    def relative_error(self, inputs, targets, predictions):
        return measures.total(inputs @ predictions - np.eye(inputs.shape[-1])) / inputs.shape[-1]

    def properties(self, inputs, targets, predictions):
        """`inverse`: sum |P - M^-1| / sum |M^-1|."""
        return {"inverse": measures.relative(predictions - targets, targets)}


TASKS: dict[str, Task] = {task.name: task for task in (Eigenvalues(), Eigenvectors(), Inversion())}


def get_task(name: str) -> Task:
    """The task of that name; ValueError with the near matches for any other."""
    check_name("task", name, TASKS)
    return TASKS[name]


def draw(
    task: Task, size: int, n: int, rng: np.random.Generator, spectrum: str = "semicircle", entries: str = "uniform"
) -> np.ndarray:
    """n random solvable matrices (n, size, size) of a task; see `sample` for the arguments, which are not checked."""
    matrices = SPECTRA[spectrum] if task.symmetric else square
    drawn = matrices(size, n, rng, entries)
    while (unsolvable := ~task.solvable(drawn)).any():
        drawn[unsolvable] = matrices(size, int(unsolvable.sum()), rng, entries)
    return drawn


def check_problem(task: Task, size, spectrum: str, entries: str) -> int:
    """The size. TypeError or ValueError for a size, spectrum or kind of entries that the task does not have."""
    check_name("spectrum", spectrum, SPECTRA)
    check_name("entries", entries, ENTRIES)
    if spectrum != "semicircle" and not task.symmetric:
        raise ValueError(f"{task.name} has no spectrum to choose, got {spectrum!r}")
    return whole_number("size (of the matrices)", size, 1, MAX_SIZE)


def sample(
    task: str,
    size: int,
    n: int,
    rng: np.random.Generator | int | None = None,
    spectrum: str = "semicircle",
    entries: str = "uniform",
) -> tuple[np.ndarray, np.ndarray]:
    """n random problems of a task, with their exact solutions, in float64.

    size: the matrices are size x size, 1 to 20. n: how many, with 10^9 entries at most. rng: a numpy Generator, or a
    seed; without it the problems are others at each call. spectrum (symmetric tasks): one of SPECTRA; all but
    "semicircle" and "marcenko" keep a Wigner draw's eigenvectors and replace its eigenvalues. entries: "uniform" in
    [-10, 10], or "normal" with standard deviation 10 / sqrt(3); for "marcenko" they are those of A in A^T A, on the
    scale sqrt(10). Returns inputs (n, size, size) and targets (n, *target shape). Raises ValueError or TypeError.
    """
    solver = get_task(task)
    try:
        size = check_problem(solver, size, spectrum, entries)
    except ValueError as error:
        swapped = isinstance(n, (int, np.integer)) and 1 <= n <= MAX_SIZE and "size" in str(error)
        raise ValueError(f"{error}; size and n = {n} may be swapped" if swapped else str(error)) from None
    n = whole_number("n (the number of examples)", n, 0)
    if n * size**2 > MAX_ENTRIES:
        raise ValueError(f"n (the number of examples) must be at most {MAX_ENTRIES // size**2} at size {size}, got {n}")
    if not isinstance(rng, np.random.Generator):
        seed = None if rng is None else whole_number("rng (if not a numpy Generator, then a seed)", rng, 0)
        rng = np.random.default_rng(seed)
    inputs = draw(solver, size, n, rng, spectrum, entries)
    return inputs, np.ascontiguousarray(solver.solve(inputs))
