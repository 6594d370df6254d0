"""The four encodings: golden vectors, round trips, and what they refuse."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mathtransformer.data.encodings import ENCODINGS, digits, encoding

GOLDEN = pd.read_csv(Path(__file__).parent / "data" / "encodings.csv")
in_range = st.floats(-9.9e8, 9.9e8).filter(lambda x: abs(x) > 1e-6)
any_float = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("name", ENCODINGS)
def test_golden_vectors(name):
    numbers, written = encoding(name), [text.split() for text in GOLDEN[name]]
    decoded = GOLDEN[f"decoded_{name}"].to_numpy()
    assert len(GOLDEN) == 322
    assert numbers.tokens(GOLDEN.value.to_numpy()) == written
    np.testing.assert_array_equal(numbers.values(written), decoded)
    np.testing.assert_array_equal(numbers.decode(numbers.encode(GOLDEN.value.to_numpy())), decoded)


@pytest.mark.parametrize("name", ENCODINGS)
@given(values=st.lists(in_range, min_size=1, max_size=50))
def test_round_trip_keeps_three_digits(name, values):
    values = np.array(values)
    decoded = encoding(name).decode(encoding(name).encode(values))
    assert np.all(np.abs(decoded / values - 1) <= 0.005 * (1 + 1e-9))
    again = encoding(name).decode(encoding(name).encode(decoded))
    np.testing.assert_array_equal(again, decoded)
    np.testing.assert_array_equal(encoding(name).decode(encoding(name).encode(-values)), -decoded)


@given(values=st.lists(any_float, min_size=1, max_size=50))
def test_digits_round_as_python_does(values):
    mantissa, exponent = digits(np.array(values, dtype=float))
    for x, m, e in zip(values, mantissa, exponent):
        head, tail = f"{x:.2e}".split("e")
        expected = (round(float(head) * 100), int(tail) - 2) if x else (0, 0)
        assert (m, e) == expected


def test_digits_on_ties_and_powers_of_ten():
    ties = np.array([m / 1000 * 10.0**k for m in range(1005, 9999, 10) for k in range(-3, 4)])
    powers = np.array([10.0**k * (1 + s * d) for k in range(-20, 21) for s in (-1, 1) for d in (0, 1e-16, 1e-9, 4e-3)])
    subnormal = 5e-324 * np.arange(1.0, 50.0)
    for values in (ties, powers, subnormal):
        mantissa, exponent = digits(values)
        written = [f"{x:.2e}" for x in values]
        assert [f"{m / 100:.2f}e{e + 2:+03d}" for m, e in zip(mantissa, exponent)] == written


@pytest.mark.parametrize("name", ENCODINGS)
@settings(max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_ids_decode_to_nan_or_come_back(name, seed):
    rng, numbers = np.random.default_rng(seed), encoding(name)
    ids = rng.integers(-1, len(numbers.vocabulary) + 1, (100, numbers.tokens_per_number))
    values = numbers.decode(ids)
    good = ~np.isnan(values)
    np.testing.assert_array_equal(numbers.encode(values[good]), ids[good])


def test_ids_of_small_vocabularies_exhaustively():
    numbers = encoding("B1999")
    first, last = np.meshgrid(range(1801), [1801, 1901, 2001, 5], indexing="ij")
    values = numbers.decode(np.stack([first, last], -1))
    assert np.isnan(values[:, 3]).all()  # a mantissa where the exponent should be
    assert np.isnan(values[0]).tolist() == [True, False, True, True]  # zero is written N0 E0 only
    assert (~np.isnan(values[1:, :3])).all()


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("P10", ["+", "0", "1", "2", "E0"]), ("P10", ["+", "0", "E1"]), ("P10", ["-", "0", "E0"]), ("P10", []),
        ("P10", ["+", "0", "E0", "<pad>", "<pad>"]),
        ("P1000", ["+", "0", "E-2"]), ("P1000", ["314", "+", "E-2"]), ("P1000", ["+", "314", "E-101"]),
        ("P1000", ["+", "314", "E0", "E0"]), ("B1999", ["N5", "E0"]), ("B1999", ["N-0", "E0"]),
        ("FP15", ["N5e3"]), ("FP15", ["N100e16"]), ("FP15", ["N-0e0"]), ("FP15", [None]),
    ],
)  # fmt: skip
def test_what_no_encoder_writes_is_nan(name, tokens):
    assert np.isnan(encoding(name).values([tokens])).all()


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused(name, bad):
    with pytest.raises(ValueError, match="flat index 2"):
        encoding(name).encode([[1.0, 2.0], [bad, 3.0]])


def test_range_limits():
    assert encoding("FP15").tokens(9.994e8) == [["N999e15"]]
    for name, value in (("FP15", 9.996e8), ("FP15", -1e9), ("FP15", 1e300), ("P1000", 1e103), ("P10", -1e200)):
        with pytest.raises(ValueError, match="the limit is"):
            encoding(name).encode(value)
    assert encoding("P1000").tokens([9.99e102, 1e-98, 4e-99]) == [
        ["+", "999", "E100"],
        ["+", "100", "E-100"],
        ["+", "0", "E0"],
    ]
    assert encoding("FP15").decode(encoding("FP15").encode([4e-10, -1e-300])).tolist() == [0.0, 0.0]


def test_shapes_and_kinds_of_input():
    fp15 = encoding("FP15")
    assert fp15.encode(3.14).shape == (1,)
    assert fp15.encode([]).shape == (0, 1)
    assert fp15.encode(np.arange(24).reshape(2, 3, 4)[:, ::2, ::-1]).shape == (2, 2, 4, 1)
    np.testing.assert_array_equal(fp15.encode(np.float32([1, 2])), fp15.encode([1, 2]))
    for bad in (["a"], [1j], [object()], "3.14"):
        with pytest.raises(TypeError, match="numbers expected"):
            fp15.encode(bad)
    with pytest.raises(TypeError, match="integer ids"):
        fp15.decode([[1.5]])
    with pytest.raises(ValueError, match="axis of 3"):
        encoding("P1000").decode([[1, 2]])


def test_unknown_encoding_names_the_near_one():
    with pytest.raises(ValueError, match="P1000"):
        encoding("P100")


@pytest.mark.parametrize("name", ENCODINGS)
@settings(max_examples=100)
@given(seed=st.integers(0, 2**32))
def test_plausible_tokens_decode_to_nan_or_come_back(name, seed):
    """Uniform ids are never a P10 number (0 of 20,000): so spoil one token of real writings."""
    rng, numbers = np.random.default_rng(seed), encoding(name)
    values = rng.choice([-1, 1], 40) * 10.0 ** rng.uniform(-6, 8, 40) * (rng.random(40) > 0.1)
    written = numbers.tokens(values)
    words = [word for word in numbers.vocabulary if word != "<pad>"] + ["E101", "", "x"]
    for row in written[:20]:
        row[rng.integers(len(row))] = words[rng.integers(len(words))]
    decoded = numbers.values(written)
    good = ~np.isnan(decoded)
    assert good[20:].all()
    assert numbers.tokens(decoded[good]) == [row for row, kept in zip(written, good) if kept]


@pytest.mark.parametrize("name", ENCODINGS)
def test_error_is_at_most_half_a_unit_of_the_third_digit(name):
    rng = np.random.default_rng(0)
    values = 10.0 ** rng.uniform(-6, 8.9, 50_000)
    decoded = encoding(name).decode(encoding(name).encode(values))
    unit = 10.0 ** (np.floor(np.log10(values)) - 2)
    error = np.abs(decoded - values) / unit
    assert error.max() <= 0.5 + 1e-6
    assert error.max() > 0.499
    assert error.mean() == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("name", ENCODINGS)
def test_just_below_and_at_the_limit(name):
    limit = 9.995e8 if name == "FP15" else 9.995e102
    digits = "".join(encoding(name).tokens(limit * (1 - 1e-9))[0])
    assert digits == {"P10": "+999E100", "P1000": "+999E100", "B1999": "N999E100", "FP15": "N999e15"}[name]
    with pytest.raises(ValueError, match=f"in {name}: the limit"):
        encoding(name).encode(limit * (1 + 1e-9))
