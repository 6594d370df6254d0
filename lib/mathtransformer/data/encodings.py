"""Four ways to write a number with three significant digits as tokens, as in the paper.

========  ================  =================  =======================================================
encoding  3.14              tokens a number    range (abs value)
========  ================  =================  =======================================================
P10       + 3 1 4 E-2       5 (zero: 3)        1e-98 to 9.99e102; smaller numbers become zero
P1000     + 314 E-2         3                  the same
B1999     N314 E-2          2                  the same
FP15      N314e7            1                  below 1e9; fewer digits below 1e-7, zero below 5e-10
========  ================  =================  =======================================================

P10, P1000 and B1999 round as `"%.2e" % value` does; FP15 rounds abs(value) * 1e7 in floating point, which
differs on a few ties (0.09995). All work on whole arrays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache, cached_property

import numpy as np

from ..checks import as_array, as_numbers, choose

ENCODINGS = ("P10", "P1000", "B1999", "FP15")
EXPONENTS = range(-100, 101)
POWERS = np.array([10.0**k for k in range(-330, 309)])  # POWERS[k + 330] is 10**k, as Python rounds it


def as_token_lists(token_lists) -> list:
    """A list of token lists; TypeError for anything else, such as strings, which would fall apart into characters."""
    try:
        rows = [row.tolist() if isinstance(row, np.ndarray) else row for row in token_lists]
    except TypeError:
        raise TypeError(f"a list of token lists expected, got {type(token_lists).__name__}") from None
    for place, row in enumerate(rows):
        if not isinstance(row, (list, tuple)):
            raise TypeError(f"a list of tokens expected for each number, got {type(row).__name__} (number {place})")
    return rows


def too_large(array: np.ndarray, wrong: np.ndarray, limit: str, name: str) -> ValueError:
    index = int(np.flatnonzero(wrong)[0])
    return ValueError(f"cannot encode {array.flat[index]:g} (at flat index {index}) in {name}: the limit is {limit}")


def digits(values) -> tuple[np.ndarray, np.ndarray]:
    """Round to three digits as `"%.2e"` does.

    Returns (mantissa, exponent), int64 shaped like values: value ~ mantissa * 10**exponent, where the mantissa is 0
    or +-100 to +-999.

    Near a tie, or next to a power of ten, the floating-point shortcut could differ from the exact rounding of the
    binary number, so there (well under one in a thousand) Python's own formatting decides.
    """
    array = as_numbers(values)
    size = np.abs(array.reshape(-1))
    zero = size == 0
    safe = np.where(zero, 1.0, size)
    exponent = np.floor(np.log10(safe)).astype(np.int64) - 2
    scaled = safe / POWERS[np.maximum(exponent, -306) + 330]  # below 100, so unsure, where the power would be subnormal
    mantissa = np.rint(scaled).astype(np.int64)
    unsure = (np.abs(scaled - np.floor(scaled) - 0.5) < 1e-6) | (scaled < 100.001) | (scaled > 999.49)
    unsure &= ~zero
    if unsure.any():
        written = np.char.mod("%.2e", safe[unsure])
        mantissa[unsure] = [int(text[0] + text[2:4]) for text in written]
        exponent[unsure] = [int(text[5:]) - 2 for text in written]
    mantissa = np.where(zero, 0, np.where(np.signbit(array.reshape(-1)), -mantissa, mantissa))
    return mantissa.reshape(array.shape), np.where(zero, 0, exponent).reshape(array.shape)


class Encoding(ABC):
    """One way to write numbers. A token's id is its index in `vocabulary`."""

    name: str
    tokens_per_number: int
    vocabulary: list[str]

    @abstractmethod
    def encode(self, values) -> np.ndarray:
        """(...) numbers -> int64 ids (..., k).

        Raises TypeError for what is not real numbers, ValueError for NaN, infinity, or a number beyond the range.
        """

    @abstractmethod
    def numbers(self, ids: np.ndarray) -> np.ndarray:
        """Ids (..., k), all of them in the vocabulary, -> float64 (...), NaN where no encoder wrote them."""

    def decode(self, ids) -> np.ndarray:
        """Ids (..., k) -> float64 (...); NaN for ids that no encoder could have written.

        Raises TypeError for what is not integers, ValueError for another last axis than k.
        """
        ids = as_array(ids, "integer ids", "iu")
        if ids.ndim == 0 or ids.shape[-1] != self.tokens_per_number:
            raise ValueError(f"{self.name} ids end with an axis of {self.tokens_per_number}, got shape {ids.shape}")
        known = ((ids >= 0) & (ids < len(self.vocabulary))).all(-1)
        return np.where(known, self.numbers(np.where(known[..., None], ids, 0).astype(np.int64)), np.nan)

    def tokens(self, values) -> list[list[str]]:
        """Numbers, flattened, -> one list of tokens each."""
        ids = self.encode(values).reshape(-1, self.tokens_per_number)
        return [[self.vocabulary[i] for i in row if self.vocabulary[i] != "<pad>"] for row in ids]

    def values(self, token_lists) -> np.ndarray:
        """Lists of tokens, one a number, -> float64 (N,); NaN for what no encoder could have written."""
        token_lists = as_token_lists(token_lists)
        ids = np.full((len(token_lists), self.tokens_per_number), -1)
        padding = [self.index.get("<pad>", -1)] * self.tokens_per_number  # for ids only: no token of the lists
        for row, tokens in zip(ids, token_lists, strict=True):
            if len(tokens) <= self.tokens_per_number:
                known = [isinstance(token, str) and token != "<pad>" for token in tokens]
                written = [self.index.get(token, -1) if good else -1 for token, good in zip(tokens, known)]
                row[:] = [*written, *padding[len(tokens) :]]
        return self.decode(ids)

    @cached_property
    def index(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.vocabulary)}


class Positional(Encoding):
    """P10, P1000 and B1999: sign and digits in base 10 or 1000, then an exponent token E-100 to E100."""

    def __init__(self, name: str):
        self.name = name
        self.tokens_per_number = {"P10": 5, "P1000": 3, "B1999": 2}[name]
        mantissas = [0, *range(100, 1000)]
        self.leading = {
            "P10": ["+", "-", *map(str, range(10))],
            "P1000": ["+", "-", *map(str, mantissas)],
            "B1999": [f"N{m}" for m in mantissas] + [f"N-{m}" for m in mantissas[1:]],
        }[name]
        # P10 writes zero with three tokens; its ids are padded to five.
        self.vocabulary = self.leading + [f"E{e}" for e in EXPONENTS] + (["<pad>"] if name == "P10" else [])

    def encode(self, values) -> np.ndarray:
        array = as_numbers(values)
        mantissa, exponent = digits(array)
        if (exponent > EXPONENTS[-1]).any():
            raise too_large(array, exponent > EXPONENTS[-1], "9.99e102", self.name)
        zero = (mantissa == 0) | (exponent < EXPONENTS[0])
        size, exponent = np.where(zero, 0, np.abs(mantissa)), np.where(zero, 0, exponent)
        negative = (mantissa < 0) & ~zero
        last = len(self.leading) - EXPONENTS[0] + exponent
        place = np.maximum(size - 99, 0)  # in the list 0, 100, 101, ..., 999
        if self.name == "B1999":
            return np.stack([place + 900 * negative, last], -1)
        if self.name == "P1000":
            return np.stack([negative.astype(np.int64), 2 + place, last], -1)
        pad = len(self.vocabulary) - 1
        ids = np.stack([negative, 2 + size // 100, 2 + size // 10 % 10, 2 + size % 10, last], -1)
        ids[zero] = [0, 2, len(self.leading) - EXPONENTS[0], pad, pad]
        return ids

    def numbers(self, ids: np.ndarray) -> np.ndarray:
        first = len(self.leading)
        if self.name == "B1999":
            place, exponent = ids[..., 0], ids[..., 1] - first
            good = place < first
            negative, place = place > 900, np.where(place > 900, place - 900, place)
            size = np.where(place > 0, place + 99, 0)
        elif self.name == "P1000":
            sign, place, exponent = ids[..., 0], ids[..., 1] - 2, ids[..., 2] - first
            good = (sign < 2) & (place >= 0) & (place <= 900)
            negative, size = sign == 1, np.where(place > 0, place + 99, 0)
        else:
            return self.numbers_in_base_10(ids)
        good &= (exponent >= 0) & (exponent < len(EXPONENTS))
        return self.assemble(good, negative, size, exponent + EXPONENTS[0])

    def numbers_in_base_10(self, ids: np.ndarray) -> np.ndarray:
        first, pad = len(self.leading), len(self.vocabulary) - 1
        figures, exponent = ids[..., 1:4] - 2, ids[..., 4] - first
        good = (ids[..., 0] < 2) & ((figures >= 0) & (figures < 10)).all(-1) & (figures[..., 0] > 0)
        good &= (exponent >= 0) & (exponent < len(EXPONENTS))
        size = figures @ np.array([100, 10, 1])
        zero = (ids == [0, 2, first - EXPONENTS[0], pad, pad]).all(-1)
        numbers = self.assemble(good, ids[..., 0] == 1, size, exponent + EXPONENTS[0])
        return np.where(zero, 0.0, numbers)

    @staticmethod
    def assemble(good, negative, size, exponent) -> np.ndarray:
        """Only canonical writings are numbers: zero is + 0 E0, and nothing else has the mantissa 0."""
        good = good & ((size > 0) | (~negative & (exponent == 0)))
        magnitude = size * POWERS[np.clip(exponent, -100, 100) + 330]
        return np.where(good, np.where(negative, -magnitude, magnitude), np.nan)


class FloatingPoint(Encoding):
    """FP15: one symbol a number, N{mantissa}e{exponent} for mantissa * 10**(exponent - 9).

    Ids: 0 is zero; 1 + ((negative * 16 + exponent) * 900 + mantissa - 100) for three digits; then the mantissas
    1 to 99 of exponent 0, positive before negative. The model's output heads rely on this order.
    """

    name, tokens_per_number = "FP15", 1

    def __init__(self):
        signs, exponents, mantissas = np.meshgrid([1, -1], np.arange(16), np.arange(100, 1000), indexing="ij")
        small = np.concatenate([np.arange(1, 100), -np.arange(1, 100)])
        mantissa = np.concatenate([[0], (signs * mantissas).ravel(), small])
        exponent = np.concatenate([[0], exponents.ravel(), np.zeros(198, int)])
        self.vocabulary = [f"N{m}e{e}" for m, e in zip(mantissa.tolist(), exponent.tolist(), strict=True)]
        # Dividing by a power of ten, rather than multiplying by its inverse, gives 3.76 and not 3.7600000000000002.
        down, up = 10.0 ** np.maximum(9 - exponent, 0), 10.0 ** np.maximum(exponent - 9, 0)
        self.table = mantissa / down * up

    def encode(self, values) -> np.ndarray:
        array = as_numbers(values)
        size = np.abs(array.reshape(-1))
        if (size >= 1e10).any():
            raise too_large(array, size >= 1e10, "1e9", self.name)
        size *= 1e7
        exponent = np.log10(np.maximum(size, 1.0)).astype(np.int64)
        mantissa = (size * np.take(POWERS, 332 - exponent) + 0.5).astype(np.int64)
        carry = mantissa == 1000
        exponent += carry
        mantissa[carry] = 100
        if (exponent > 15).any():
            raise too_large(array, exponent > 15, "1e9", self.name)
        negative = np.signbit(array).reshape(-1)
        ids = (negative * 16 + exponent) * 900 + (mantissa - 99)
        few = mantissa < 100
        if few.any():
            small = 28_800 + mantissa[few] + 99 * negative[few]
            ids[few] = np.where(mantissa[few] == 0, 0, small)
        return ids.reshape(*array.shape, 1)

    def numbers(self, ids: np.ndarray) -> np.ndarray:
        return np.take(self.table, ids[..., 0])


@cache
def make(name: str) -> Encoding:
    return FloatingPoint() if name == "FP15" else Positional(name)


def encoding(name: str) -> Encoding:
    """The encoding called P10, P1000, B1999 or FP15; ValueError with the near matches for any other name."""
    choose("encoding", name, ENCODINGS)
    return make(str(name))


def rounded(values) -> np.ndarray:
    """Numbers as a model reads them: three significant digits, through FP15 and back."""
    fp15 = encoding("FP15")
    return fp15.decode(fp15.encode(values))
