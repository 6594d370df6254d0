"""Anything that a caller may pass for numbers, and how a property is tested on it: see test_any_input.py."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def for_any(quick: int, full: int, **drawn):
    """Make two tests of a property: of `quick` inputs for every day, and of `full` ones, marked slow.

    The inputs are random, but always the same.
    """

    def decorate(check):
        @pytest.mark.parametrize("inputs", [quick, pytest.param(full, marks=pytest.mark.slow)])
        def test(inputs):
            options = {"derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck)}
            settings(max_examples=inputs, **options)(given(**drawn)(check))()

        test.__doc__ = check.__doc__
        return test

    return decorate


def refused(message: str, function, *arguments) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        function(*arguments)


def mostly(good, bad: list):
    """(value, whether it is good): one in ten is bad."""
    right, wrong = good.map(lambda value: (value, True)), st.sampled_from(bad).map(lambda value: (value, False))
    return st.integers(0, 9).flatmap(lambda k: wrong if k == 0 else right)


EXTREMES = [math.nan, math.inf, -math.inf, 1.7976931348623157e308, -1.3e308, 1e9, -1e9, 1e200]
LIMITS = [9.9949e8, 9.9951e8, -9.9951e8, 9.9949e102, 9.9951e102, 9.996e-99, 9.994e-99, 1e-98, 1e-7, 5.1e-10, 4.9e-10]
TINY = [0.0, -0.0, 5e-324, -2.2e-308]


def random_numbers(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """float64 numbers of any magnitude, or of moderate ones; ties of the third digit; and now and then an extreme."""
    rng = np.random.default_rng(seed)
    low, high = [(-3, 3), (-12, 8.9), (-320, 308)][rng.choice(3, p=[0.6, 0.3, 0.1])]
    numbers = rng.choice([-1, 1], shape) * 10.0 ** rng.uniform(low, high, shape)
    ties = np.minimum(rng.integers(100, 1100, shape), 999) + rng.choice([0.5, 0.0, 0.4999], shape)
    numbers = np.where(rng.random(shape) < 0.2, ties * 10.0 ** rng.integers(-6, 6, shape), numbers)
    rare = rng.choice([*TINY, *TINY, *TINY, *LIMITS] if rng.random() < 0.5 else TINY, shape)
    numbers = np.where(rng.random(shape) < rng.choice([0, 0.3]), rare, numbers)
    if numbers.size and rng.random() < 0.2:
        numbers.flat[rng.integers(numbers.size)] = rng.choice(EXTREMES)
    return numbers


seeds = st.integers(0, 2**62)


def numbers_of(shapes):
    return st.builds(random_numbers, shapes, seeds)


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def whole(a, low, high, dtype):
    return np.array(np.nan_to_num(a).clip(low, high), dtype)


def tensor(a, dtype=torch.float64):
    return torch.from_numpy(np.array(a)).to(dtype)


GOOD = {
    "plain": lambda a: a,
    "float32": lambda a: a.astype(np.float32),
    "float16": lambda a: a.astype(np.float16),
    "long double": lambda a: a.astype(np.longdouble) * np.longdouble(1.5),
    "big endian": lambda a: a.astype(">f8"),
    "int64": lambda a: whole(a, -9e18, 9e18, np.int64),
    "uint64": lambda a: whole(a, 0, 1.8e19, np.uint64),
    "int8": lambda a: whole(a, -128, 127, np.int8),
    "list": lambda a: a.tolist(),
    "tuple of arrays": lambda a: tuple(a) if a.ndim else a,
    "negative strides": lambda a: np.flip(np.flip(a).copy()),
    "not contiguous": lambda a: np.stack([a, a], -1)[..., 0],
    "Fortran order": np.asfortranarray,
    "read-only": read_only,
    "tensor": tensor,
    "tensor with a gradient": lambda a: tensor(a, torch.float32).requires_grad_(),
    "bfloat16": lambda a: tensor(a, torch.bfloat16),
    "int32 tensor": lambda a: torch.from_numpy(whole(a, -2e9, 2e9, np.int32)),
}
BAD = {
    "bool": lambda a: a > 0,
    "complex": lambda a: a + 1j,
    "object": lambda a: a.astype(object),
    "text": lambda a: a.astype(str),
    "bytes": lambda a: a.astype(bytes),
    "dates": lambda a: np.zeros(a.shape, "M8[s]"),
    "records": lambda a: np.zeros(a.shape, "i4,f8"),
    "with None": lambda a: [a.tolist(), None],
    "ragged": lambda a: [[1.0, 2.0], a.tolist(), [[3.0]]],
    "huge integers": lambda a: [[[10**400]]],
    "dictionary": lambda a: {"a": a},
    "set": lambda a: {1.0, 2.0},
    "generator": lambda a: (x for x in [1.0]),
    "string": lambda a: "3.14",
    "None": lambda a: None,
    "function": lambda a: np.sin,
    "complex tensor": lambda a: tensor(a, torch.complex64),
    "bool tensor": lambda a: tensor(a, torch.bool),
    "sparse tensor": lambda a: tensor(np.atleast_1d(a)).to_sparse(),
    "list of tensors with gradients": lambda a: [torch.ones(2, requires_grad=True)],
}
RIGHT_IF_EMPTY = ("object",)  # without a number, nothing is wrong with these
ways = st.sampled_from([*GOOD] * 4 + [*BAD])


def come(way: str, array: np.ndarray):
    """The array in the way in which it comes along."""
    with np.errstate(all="ignore"):  # these overflows are ours
        return {**GOOD, **BAD}[way](array)


def plain(value) -> np.ndarray:
    """What an array-like holds, taken out by Python's own conversion, as a contiguous float64 array."""
    with np.errstate(all="ignore"):
        listed = np.array(value.tolist() if hasattr(value, "tolist") else value, dtype=np.float64)
    return listed.reshape(value.shape) if hasattr(value, "shape") else listed
