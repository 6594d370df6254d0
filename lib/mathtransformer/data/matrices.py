"""Random matrices: their entries, and for symmetric ones their spectrum.

Source: Charton 2022 (arXiv 2211.00170) and its code. Where the two differ this is said below.
To add a spectrum, write a function and put it into SPECTRA.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LIMIT = 10.0  # entries are uniform in [-LIMIT, LIMIT], or normal with the same standard deviation
ENTRIES = ("uniform", "normal")  # the paper's settings ask for "gaussian", a word its code does not know: so uniform
MAX_SIZE = 20


def square(size: int, n: int, rng: np.random.Generator, entries: str, limit: float = LIMIT) -> np.ndarray:
    """(n, size, size) independent entries: "uniform" in [-limit, limit], or "normal" with deviation limit / sqrt(3)."""
    if entries == "uniform":
        return rng.uniform(-limit, limit, (n, size, size))
    return rng.normal(0.0, limit / np.sqrt(3), (n, size, size))


def wigner(size: int, n: int, rng: np.random.Generator, entries: str) -> np.ndarray:
    """(n, size, size) symmetric matrices: the lower triangle of random entries, mirrored. Spectrum: a semicircle."""
    full = square(size, n, rng, entries)
    rows, columns = np.triu_indices(size, 1)
    full[:, rows, columns] = full[:, columns, rows]
    return full


def symmetrised(matrices: np.ndarray) -> np.ndarray:
    return (matrices + matrices.mT) / 2


def marcenko(size: int, n: int, rng: np.random.Generator, entries: str) -> np.ndarray:
    """A^T A, with entries of A on the scale sqrt(10): the law of Marchenko and Pastur."""
    factor = square(size, n, rng, entries, np.sqrt(LIMIT))
    return symmetrised(factor.mT @ factor)


def rebuilt(eigenvalues: Callable) -> Callable:
    """A spectrum with the eigenvectors of a Wigner matrix and other eigenvalues.

    eigenvalues: (eigenvalues (n, size) of the Wigner matrices, their scale sigma = 10 sqrt(size / 3), rng) -> those to
    take. Rebuilt is V^T diag(values) V, V's columns being the Wigner matrix's eigenvectors with LAPACK's signs: so its
    own eigenvectors are V's rows. This is how the paper's code does it. Where the signs matter, for size > 2, it is
    another distribution than V diag(values) V^T: 5x5 `positive` has diagonal entries with a standard deviation of 3.2
    at the ends and 3.5 between, instead of 2.8.
    """

    def spectrum(size: int, n: int, rng: np.random.Generator, entries: str) -> np.ndarray:
        old, vectors = np.linalg.eigh(wigner(size, n, rng, entries))
        values = eigenvalues(old, np.sqrt(size) * LIMIT / np.sqrt(3), rng)
        return symmetrised((vectors.mT * values[:, None]) @ vectors)

    return spectrum


# Each draws n symmetric matrices: (size, n, rng, entries) -> (n, size, size).
SPECTRA: dict[str, Callable] = {
    "semicircle": wigner,
    "uniform": rebuilt(lambda old, sigma, rng: rng.uniform(-sigma * np.sqrt(3), sigma * np.sqrt(3), old.shape)),
    "gaussian": rebuilt(lambda old, sigma, rng: rng.normal(0.0, sigma, old.shape)),
    "laplace": rebuilt(lambda old, sigma, rng: rng.laplace(0.0, sigma / np.sqrt(2), old.shape)),
    "positive": rebuilt(lambda old, sigma, rng: np.abs(old)),
    "positive2": rebuilt(lambda old, sigma, rng: np.abs(rng.laplace(0.0, sigma / np.sqrt(2), old.shape))),
    "marcenko": marcenko,
}

# The paper's: what the models of data/runs were trained and tested on. To add a spectrum changes nothing of that.
STUDIED = ("semicircle", "uniform", "gaussian", "laplace", "positive", "positive2", "marcenko")
