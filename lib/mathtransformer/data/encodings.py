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

from ..checks import as_array, as_numbers, check_name

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
        k, pad = self.tokens_per_number, self.index.get("<pad>", -1)

        def ids(tokens: list) -> list[int]:
            known = [
                self.index.get(token, -1) if isinstance(token, str) and token != "<pad>" else -1 for token in tokens
            ]
            return known + [pad] * (k - len(known)) if len(known) <= k else [-1] * k

        rows = [ids(tokens) for tokens in as_token_lists(token_lists)]
        return self.decode(np.array(rows, int).reshape(-1, k))

    @cached_property
    def index(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.vocabulary)}


class Positional(Encoding):
    """P10, P1000 and B1999: sign and digits in base 10 or 1000, then an exponent token E-100 to E100."""

    def __init__(self, name: str):
        size = [0, *range(100, 1000)]
        self.name, self.mantissas = name, np.array(size + [-m for m in size[1:]])
        leading, spelt = {
            "P10": (["+", "-", *"0123456789"], list),
            "P1000": (["+", "-", *map(str, size)], lambda text: [text[0], text[1:]]),
            "B1999": ([f"N{m}" for m in self.mantissas], lambda text: [f"N{int(text)}"]),
        }[name]
        self.vocabulary = leading + [f"E{e}" for e in EXPONENTS] + (["<pad>"] if name == "P10" else [])
        written = [[*spelt(f"{m:+}"), "E0"] for m in self.mantissas.tolist()]
        self.tokens_per_number = len(written[1])
        # P10 writes zero with three tokens; its ids are padded to five.
        written[0] += ["<pad>"] * (self.tokens_per_number - len(written[0]))
        self.ids = np.array([[self.index[token] for token in tokens] for tokens in written])  # of each mantissa

    def encode(self, values) -> np.ndarray:
        array = as_numbers(values)
        mantissa, exponent = digits(array)
        if (exponent > EXPONENTS[-1]).any():
            raise too_large(array, exponent > EXPONENTS[-1], "9.99e102", self.name)
        zero = (mantissa == 0) | (exponent < EXPONENTS[0])
        ids = self.ids[np.where(zero, 0, np.abs(mantissa) - 99 + 900 * (mantissa < 0))]
        ids[..., -1] += np.where(zero, 0, exponent)
        return ids

    def numbers(self, ids: np.ndarray) -> np.ndarray:
        """The mantissa is looked up by the tokens before the exponent; the number is right if it is encoded so."""
        base = len(self.vocabulary) ** np.arange(self.tokens_per_number - 1)
        known = self.ids[:, :-1] @ base
        order = known.argsort()
        place = order[np.searchsorted(known[order], ids[..., :-1] @ base).clip(max=len(order) - 1)]
        exponent = np.where(place == 0, 0, ids[..., -1] - self.index["E0"]).clip(EXPONENTS[0], EXPONENTS[-1])
        numbers = self.mantissas[place] * POWERS[exponent + 330]
        return np.where((self.encode(numbers) == ids).all(-1), numbers, np.nan)


class FloatingPoint(Encoding):
    """FP15: one symbol a number, N{mantissa}e{exponent} for mantissa * 10**(exponent - 9).

    Ids: 0 is zero; 1 + ((negative * 16 + exponent) * 900 + mantissa - 100) for three digits; then the mantissas
    1 to 99 of exponent 0, positive before negative. The model's output heads rely on this order.
    """

    name, tokens_per_number = "FP15", 1

    def __init__(self):
        three = [(sign * m, e) for sign in (1, -1) for e in range(16) for m in range(100, 1000)]
        pairs = [(0, 0), *three, *((sign * m, 0) for sign in (1, -1) for m in range(1, 100))]
        self.vocabulary, (mantissa, exponent) = [f"N{m}e{e}" for m, e in pairs], np.array(pairs).T
        # Dividing by a power of ten, rather than multiplying by its inverse, gives 3.76 and not 3.7600000000000002.
        down, up = 10.0 ** np.maximum(9 - exponent, 0), 10.0 ** np.maximum(exponent - 9, 0)
        self.table = mantissa / down * up

    def encode(self, values) -> np.ndarray:
        array = as_numbers(values)
        size = np.abs(array.reshape(-1)).clip(max=1e10) * 1e7
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
        ids[few] = np.where(mantissa[few] == 0, 0, 28_800 + mantissa[few] + 99 * negative[few])
        return ids.reshape(*array.shape, 1)

    def numbers(self, ids: np.ndarray) -> np.ndarray:
        return np.take(self.table, ids[..., 0])


@cache
def encoding(name: str) -> Encoding:
    """The encoding called P10, P1000, B1999 or FP15; ValueError with the near matches for any other name."""
    check_name("encoding", name, ENCODINGS)
    return FloatingPoint() if name == "FP15" else Positional(name)


def rounded(values, name: str = "FP15") -> np.ndarray:
    """Numbers as a model reads them: three significant digits, through an encoding and back."""
    return encoding(name).decode(encoding(name).encode(values))
