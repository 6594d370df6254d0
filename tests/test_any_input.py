"""Whatever goes in, a right answer comes out, or a ValueError or TypeError that names the problem.

Each property is tested on a few inputs, and in a slow test on many: `pytest -m slow tests/test_any_input.py`.
Warnings, NumPy's too, are errors.
"""

import math
import re
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from anything import BAD, RIGHT_IF_EMPTY, come, for_any, mostly, numbers_of, plain, random_numbers, refused, seeds, ways
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from mathtransformer import encoding, load_run, sample, train
from mathtransformer.data.encodings import ENCODINGS
from mathtransformer.data.matrices import ENTRIES, SPECTRA
from mathtransformer.data.tasks import TASKS
from mathtransformer.training import progress
from mathtransformer.training.config import Config
from mathtransformer.training.presets import PRESETS

pytestmark = pytest.mark.filterwarnings("error")
SCRATCH = tempfile.TemporaryDirectory()
names = st.sampled_from(ENCODINGS)
any_shape = array_shapes(min_dims=0, min_side=0, max_side=4)


def exponent(text: str) -> int:
    return int(text.partition("e")[2])


def too_large(name: str, x: float) -> bool:
    return abs(x) >= 9.995e8 if name == "FP15" else exponent(f"{x:.2e}") > 102


def is_written_as(name: str, x: float, decoded: float) -> bool:
    """Whether `decoded` is x to three significant digits, half a unit of the third being the largest error."""
    text = f"{x:.2e}"
    if name != "FP15":
        return math.isclose(decoded, float(text) if exponent(text) >= -98 else 0.0, rel_tol=1e-15)
    unit = 10.0 ** max(exponent(f"{x:.17e}") - 2, -9)
    short = math.isclose(float(f"{decoded:.2e}"), decoded, rel_tol=1e-15)
    return short and abs(decoded - x) <= unit / 2 * (1 + 1e-9) and (x != 0 or decoded == 0)


@for_any(100, 3500, name=names, array=numbers_of(any_shape), way=ways)
def test_encoding_numbers(name, array, way):
    numbers, value = encoding(name), come(way, array)
    if way in BAD:
        assume(array.size or way not in RIGHT_IF_EMPTY)
        return refused("numbers expected", numbers.encode, value)
    expected = plain(value)
    if not np.isfinite(expected).all():
        return refused("only finite numbers", numbers.encode, value)
    if any(too_large(name, x) for x in expected.flat):
        return refused(f"in {name}: the limit is", numbers.encode, value)
    ids = numbers.encode(value)
    assert ids.dtype == np.int64 and ids.shape == (*expected.shape, numbers.tokens_per_number)
    decoded = numbers.decode(ids)
    assert all(is_written_as(name, x, y) for x, y in zip(expected.flat, decoded.flat, strict=True))
    np.testing.assert_array_equal(numbers.values(numbers.tokens(value)), decoded.ravel())
    np.testing.assert_array_equal(plain(value), expected)  # untouched


EXPONENT = "E(0|-?[1-9][0-9]?|-?100)"
WRITTEN = {
    "P10": rf"\+ 0 E0|[+-] [1-9] [0-9] [0-9] {EXPONENT}",
    "P1000": rf"\+ 0 E0|[+-] [1-9][0-9][0-9] {EXPONENT}",
    "B1999": rf"N0 E0|N-?[1-9][0-9][0-9] {EXPONENT}",
    "FP15": r"N0e0|N-?[1-9][0-9]?e0|N-?[1-9][0-9][0-9]e([0-9]|1[0-5])",
}
NEAR = {  # tokens that make, or nearly make, a number
    "P10": ["+", "-", "0", "1", "9", "10", "E0", "E1", "E100", "E-101", "<pad>"],
    "P1000": ["+", "-", "0", "1", "99", "100", "999", "1000", "E0", "E-100", "E101"],
    "B1999": ["N0", "N-0", "N5", "N100", "N-999", "N1000", "E0", "E1", "E100", "E-0"],
    "FP15": ["N0e0", "N-0e0", "N0e1", "N5e0", "N5e3", "N-99e0", "N99e1", "N314e7", "N-314e15", "N314e16", "N314e07"],
}
STRAYS = ["E", "E00", "E1.0", "N", "", " ", "+ 0", "+0", "-0", "314.0", "\u0663", "<pad>", np.str_("E0"), np.str_("+")]
STRAYS += [None, 3, 3.14, math.nan, True, b"E0", ("+",), ["+"], {"E0"}, np.array(["+", "0"])]
NO_ROWS = [None, 3, "N314e7", "+", {"N314e7"}, {"N0e0": 1}, b"+", np.array(3), torch.ones(2)]


def meaning(name: str, tokens: list) -> float:
    """What a sequence of tokens means by the definition of its encoding: NaN if it is none of its writings."""
    text = " ".join(token if isinstance(token, str) and " " not in token else "?" for token in tokens)
    if not re.fullmatch(WRITTEN[name], text):
        return math.nan
    if name == "FP15":
        mantissa, power = text[1:].split("e")
        return float(f"{mantissa}e{int(power) - 9}")
    return float(text.replace(" ", "").removeprefix("N"))


def written_numbers(name: str, count: int, seed: int) -> np.ndarray:
    """Numbers within the range of an encoding, a third of them zero."""
    numbers = random_numbers((count,), seed)
    good = (np.abs(numbers) < (9e8 if name == "FP15" else 9e102)) & (np.arange(count) % 3 > 0)
    return np.where(good, numbers, 0.0)


def spoiled_tokens(name: str, seed: int) -> list[list]:
    """The tokens of four numbers, with up to two of them replaced, added or taken away."""
    rng = np.random.default_rng(seed)
    rows = encoding(name).tokens(written_numbers(name, 4, seed))
    for row in rows:
        for _ in range(rng.integers(0, 3)):
            words = NEAR[name] if rng.random() < 0.8 else [*STRAYS, *sum(NEAR.values(), [])]
            new = [words[rng.integers(len(words))] for _ in range(rng.integers(0, 3))]
            place = rng.integers(0, len(row) + 1)
            row[place : place + len(new) + rng.integers(-1, 2)] = new
    return rows


@for_any(60, 1500, name=names, seed=seeds, not_a_row=st.sampled_from(NO_ROWS))
def test_any_tokens(name, seed, not_a_row):
    """Tokens that no encoder writes are NaN; those of a number are written again as they were."""
    rows = spoiled_tokens(name, seed)
    decoded = encoding(name).values(rows)
    for tokens, number in zip(rows, decoded.tolist(), strict=True):
        np.testing.assert_allclose(number, meaning(name, tokens), rtol=1e-15)
        assert math.isnan(number) or encoding(name).tokens(number) == [tokens]
    refused("list of tokens expected", encoding(name).values, [*rows, not_a_row])
    refused("list of token", encoding(name).values, not_a_row)


ID_TYPES = [np.int64, np.int32, np.uint64, np.uint8, np.int8, ">i8"]
NO_IDS = [np.float64, np.float16, bool, complex, object, str, "M8[s]", "i4,i4"]


def spoiled_ids(name: str, seed: int) -> np.ndarray:
    """The ids of six numbers, of which none, some or all are replaced: by some in or near the vocabulary, or by any."""
    rng, size = np.random.default_rng(seed), len(encoding(name).vocabulary)
    ids = encoding(name).encode(written_numbers(name, 6, seed))
    ends = rng.choice([-size, -1, 0, 1, size - 1, size, size + 1], ids.shape)
    any_id = rng.integers(-(2**62), 2**62, ids.shape)
    strange = np.select([rng.random(ids.shape) < 0.5, rng.random(ids.shape) < 0.8], [rng.permuted(ids), ends], any_id)
    return np.where(rng.random(ids.shape) < rng.choice([0, 0.2, 1]), strange, ids)


@for_any(60, 1500, name=names, seed=seeds)
def test_any_ids(name, seed):
    """Ids that no encoder writes are NaN; those of a number are written again as they were."""
    code, k = encoding(name), encoding(name).tokens_per_number
    ids = spoiled_ids(name, seed)
    ids = ids.astype(ID_TYPES[seed % 6]).reshape([(-1, k), (2, 3, k)][seed // 6 % 2])
    signed = ids.astype(np.int64)
    decoded = code.decode([signed.tolist(), torch.from_numpy(signed), ids][seed // 12 % 3])
    assert decoded.dtype == np.float64 and decoded.shape == ids.shape[:-1]
    for row, number in zip(ids.reshape(-1, k).tolist(), decoded.ravel().tolist(), strict=True):
        tokens = [code.vocabulary[i] if 0 <= i < len(code.vocabulary) else None for i in row]
        tokens = tokens[:-2] if tokens[-2:] == ["<pad>", "<pad>"] else tokens
        np.testing.assert_allclose(number, meaning(name, tokens), rtol=1e-15)
        assert math.isnan(number) or code.encode(number).tolist() == row
    refused("integer ids expected", code.decode, np.zeros(ids.shape, NO_IDS[seed % 8]))
    refused(f"end with an axis of {k}", code.decode, ids[..., None, : k - 1])


WRONG = {  # for each argument of `sample`, what it refuses
    "unknown task": [None, 3, "eigenvalue", "Inversion", "", [], np.array(["inversion"]), b"inversion"],
    "size": [0, -1, 21, 10**30, 2.0, "3", None, True, math.nan, [3], np.array([3]), torch.tensor(3.0)],
    "the number of examples": [-1, 10**12, 10**30, 1.5, None, "5", False, math.inf, np.ones(2, int), [1]],
    "rng .if not": ["rng", np.random.RandomState(0), np.random.default_rng, torch.Generator()],
    "unknown spectrum": [None, "laplas", 0, ["laplace"], "", "LAPLACE"],
    "unknown entries": [None, "gaussian", 1, ("normal",), ""],
}
RIGHT = [
    st.sampled_from(list(TASKS)),
    st.one_of(st.integers(1, 20), st.sampled_from([np.int8(3), np.array(2), np.uint64(4), torch.tensor(5)])),
    st.one_of(st.integers(0, 20), st.sampled_from([np.int64(3), np.array(2)])),
    st.one_of(st.integers(0, 2**64).map(np.random.default_rng), st.just(np.random.Generator(np.random.MT19937(0)))),
    st.sampled_from(["semicircle", "semicircle", *SPECTRA]),
    st.sampled_from(ENTRIES),
]


@for_any(40, 1500, arguments=st.tuples(*[mostly(good, bad) for good, bad in zip(RIGHT, WRONG.values())]))
def test_sampling(arguments):
    values, good = zip(*arguments)
    objections = [objection for objection, fine in zip(WRONG, good) if not fine]
    task, size, n, _, spectrum, _ = values
    if good[0] and good[4] and task == "inversion" and spectrum != "semicircle":
        objections.append("no spectrum")
    if objections:
        return refused("|".join(objections), sample, *values)
    inputs, targets = sample(*values)
    assert inputs.shape == (n, size, size) and targets.shape == (n, *TASKS[task].target_shape(int(size)))
    assert inputs.dtype == targets.dtype == np.float64
    scale = np.linalg.norm(inputs, axis=(1, 2))[:, None, None]
    if task == "inversion":
        solved = np.abs(inputs @ targets - np.eye(size)) / scale / np.linalg.norm(targets, axis=(1, 2))[:, None, None]
        assert (solved < 1e-13).all()
    elif task == "eigenvalues":  # M - lambda I is singular, and no eigenvalue is missing
        shifted = inputs[:, None] - targets[..., None, None] * np.eye(size)
        assert (np.linalg.svd(shifted, compute_uv=False)[..., -1] < 1e-12 * scale[..., 0]).all()
        assert (np.abs(np.trace(inputs, axis1=1, axis2=2) - targets.sum(1)) <= 1e-12 * scale[:, 0, 0]).all()
        assert (np.diff(targets) <= 0).all()
    else:
        values, vectors = targets[:, 0], targets[:, 1:]
        assert (np.abs(inputs @ vectors - vectors * values[:, None]) < 1e-12 * scale).all()
        assert (np.abs(vectors.transpose(0, 2, 1) @ vectors - np.eye(size)) < 1e-12).all()
        assert (np.diff(values) >= 0).all()
    assert task == "inversion" or (inputs == inputs.transpose(0, 2, 1)).all()


RUNS = {
    "eigenvectors 3x3": Config.of("eigenvectors", 3),
    "eigenvalues 2x2": Config.of("eigenvalues", 2, spectrum="laplace"),
    "inversion 2x2": Config.of("inversion", 2),
    "inversion 3x3, paper": Config.of("inversion", 3, recipe="paper", output="number"),
    "eigenvectors 2x2, paper": Config.of("eigenvectors", 2, recipe="paper"),  # at random mostly NaN
}


@cache
def tiny_run(name: str):
    """A run with random weights, so that its answers depend on all that it reads."""
    folder = Path(SCRATCH.name) / name
    config = RUNS[name].changed(examples=16, width=16, heads=2, encoder_layers=1, batch=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "PROBLEMS", 5)
        train(config, folder, compiled=False, show=False, threads=1, device="cpu", force=True)
    run = load_run(folder)
    torch.manual_seed(0)
    for weights in run.model.parameters():
        if weights.ndim == 2:  # not norms and biases: these drown the problem
            weights.data.copy_(torch.randn(weights.shape) / 2)
    pair = sample(config.task, config.size, 2, np.random.default_rng(0))[0]
    assert (run.predict(pair[:1]) != run.predict(pair[1:])).any()
    return run


@st.composite
def matrices(draw, size: int, symmetric: bool) -> np.ndarray:
    """Mostly fit for a run, else of another shape, another size, or not symmetric."""
    if draw(st.integers(0, 19)) == 19:
        return draw(numbers_of(any_shape))
    size = draw(st.sampled_from([*[size] * 17, 0, size + 1, 21]))
    array = draw(numbers_of(st.tuples(st.sampled_from([2, 1, 3, 4, 0]), st.just(size), st.just(size))))
    if symmetric and draw(st.integers(0, 9)) < 9:
        array = np.where(np.tri(size, dtype=bool), array, array.transpose(0, 2, 1))
    return array


def objections(run, array: np.ndarray) -> list[str]:
    """What is wrong with matrices for a run; any of these may be named."""
    if array.ndim != 3 or array.shape[1] != array.shape[2]:
        return ["shape \\(N, n, n\\) expected"]
    found = [] if array.shape[1] == run.config.size else ["size of the matrices must be|solves"]
    if not np.isfinite(array).all():
        found.append("example [0-9] has NaN or infinity")
    if (np.abs(array) >= 9.995e8).any():
        found.append("example [0-9] has an entry of magnitude")
    with np.errstate(all="ignore"):
        difference = np.abs(array - array.transpose(0, 2, 1)).max((1, 2), initial=0)
        relative = difference / np.abs(array).max((1, 2), initial=0)
    assume(not ((relative > 1e-7) & (relative < 1e-5)).any())  # too near the tolerance to say
    if run.config.task != "inversion" and (relative > 1e-6).any():
        found.append("example [0-9] has a difference between M and its transpose")
    return found


NO_BATCHES = [0, -1, 1.5, None, "7", True, math.inf, [1], np.zeros(2, int), torch.tensor(0.5), -(10**30)]


def same(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N,) whether two predictions are the same, NaN included."""
    equal = (first == second) | (np.isnan(first) & np.isnan(second))
    return equal.all(tuple(range(1, equal.ndim)))


@for_any(60, 2500, name=st.sampled_from(list(RUNS)), data=st.data(), way=ways)
def test_predicting(name, data, way):
    run = tiny_run(name)
    array = data.draw(matrices(run.config.size, run.config.task != "inversion"))
    value = come(way, array)
    if way in BAD:
        assume(array.size or way not in RIGHT_IF_EMPTY)
        return refused("matrices of real numbers expected", run.predict, value)
    expected = plain(value)
    if found := objections(run, expected):
        return refused("|".join(found), run.predict, value)
    answer = run.predict(value)
    assert answer.dtype == np.float64
    assert answer.shape == (len(expected), *TASKS[run.config.task].target_shape(run.config.size))
    assert same(answer, run.predict(expected)).all()
    # In batches of other sizes, sums may differ in the last bit, and so may an answer that is nearly a tie.
    assert (~same(answer, run.predict(value, data.draw(st.integers(1, 3))))).sum() <= 1
    refused("batch must be", run.predict, value, data.draw(st.sampled_from(NO_BATCHES)))
    np.testing.assert_array_equal(plain(value), expected)  # untouched


ODD_NAMES = ["", ".", "/", "~", "x" * 300, "x" * 9000, "a\0b", "a/\0", "a/" * 3000, "\ud800", "a\nb", "README.md/x"]
ODD_NAMES += [None, 3, 1.5, b"x", [], ["eigenvectors-3x3"], {}, np.array(["x"]), Path("x" * 300), Path("none/such")]


any_text = st.text().filter(lambda text: text not in PRESETS)  # hypothesis also draws the names in this file


@for_any(40, 500, name=st.one_of(st.sampled_from(ODD_NAMES), any_text, st.binary(), st.text("./-x3\0 ")))
def test_names_that_are_no_run(name):
    refused("unknown run|is not a folder|this is not a run|str", load_run, name)
