"""Stored answers, from which every metric in the notebooks is computed.

data/problems/TASK-NxN-SPECTRUM.parquet        a test set, once: inputs as FP15 ids; targets in single
                                               precision, or of matrices that are drawn anew
data/predictions/RUN-on-SPECTRUM.parquet       what a run answered to its first rows, as FP15 ids
                                               (as numbers if FP15 does not hold them all)

The answers of a run that is not in data/runs are kept in its own folder, with the problems where data/problems lacks
them. Columns are named after the place in the matrix: input_0_1, prediction_2_0. 65535 stands for a number
that does not decode. Metadata binds answers to the weights that made them: `judged` refuses those of other weights.
"""

from __future__ import annotations

import io
import itertools
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .. import files
from ..checks import check_name, whole_number
from ..data.encodings import encoding
from ..data.matrices import SPECTRA
from ..data.tasks import get_task
from ..evaluation.answers import answer, test_set
from ..evaluation.metrics import problem_properties, properties
from ..files import FileError
from ..paths import PREDICTIONS, PROBLEMS, RUNS
from ..training.runs import Run, find

TEST_SEED = 2_000_000  # a training's own log is of problems from another seed
UNDECODABLE = 65_535  # beyond all FP15 ids


def columns(prefix: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """(N, a, b) -> {prefix_0_0: (N,), ...}."""
    places = itertools.product(*(range(k) for k in array.shape[1:]))
    flat = array.reshape(len(array), -1)
    return {"_".join([prefix, *map(str, place)]): flat[:, k] for k, place in enumerate(places)}


def array(table: pd.DataFrame, prefix: str) -> np.ndarray:
    """The inverse of `columns`; of symmetric matrices the table may have the upper triangle alone."""
    names = [name for name in table.columns if name == prefix or name.startswith(f"{prefix}_")]
    shape = [int(k) + 1 for k in names[-1].split("_")[1:]]
    places = itertools.product(*(map(str, range(k)) for k in shape))
    pairs = [("_".join([prefix, *place]), "_".join([prefix, *reversed(place)])) for place in places]
    return table[[name if name in table else mirrored for name, mirrored in pairs]].to_numpy().reshape(-1, *shape)


def to_ids(numbers: np.ndarray) -> np.ndarray:
    """Numbers -> FP15 ids in two bytes, UNDECODABLE for NaN; or, if FP15 does not hold them all, as they are."""
    held = np.abs(numbers) < 9.995e8
    ids = encoding("FP15").encode(np.where(held, numbers, 0.0))[..., 0]
    ids = np.where(np.isnan(numbers), UNDECODABLE, ids).astype(np.uint16)
    return ids if np.allclose(to_numbers(ids), numbers, rtol=1e-12, atol=0, equal_nan=True) else numbers


def to_numbers(ids: np.ndarray) -> np.ndarray:
    """The inverse of `to_ids`: float64, NaN where a number does not decode."""
    return encoding("FP15").decode(ids[..., None].astype(np.int64)) if ids.dtype == np.uint16 else ids


def store(path: Path, table: dict[str, np.ndarray], about: dict[str, str]) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table(table).replace_schema_metadata(about), buffer, compression="zstd", compression_level=19)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write({path: buffer.getvalue()})


def read(path: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    stored = pq.read_table(path)
    about = {key.decode(): value.decode() for key, value in (stored.schema.metadata or {}).items()}
    return stored.to_pandas(), about


def problems_path(task: str, size: int, spectrum: str, entries: str) -> Path:
    return PROBLEMS / f"{task}-{size}x{size}-{spectrum}{'' if entries == 'uniform' else '-' + entries}.parquet"


def new_problems(task: str, size: int, spectrum: str, entries: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    return test_set(get_task(task), size, n, spectrum, entries, TEST_SEED)


def problem_columns(inputs: np.ndarray, targets: np.ndarray, spectrum: str) -> dict[str, np.ndarray]:
    """Inputs, of symmetric ones a triangle; targets only of spectra that are rebuilt, which another LAPACK may draw
    otherwise."""
    found = columns("input", to_ids(inputs))
    if (inputs == inputs.swapaxes(1, 2)).all():
        upper = (f"input_{row}_{column}" for row, column in zip(*np.triu_indices(inputs.shape[1])))
        found = {name: found[name] for name in upper}
    if spectrum == "semicircle":
        return found
    return found | columns("target", targets.astype(np.float32))  # to seven digits, where a token has three


def problems_of(table: pd.DataFrame, *problem: str | int) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, targets) of a stored table, whole. problem: task, size, spectrum and entries.

    Targets that it lacks are those of its matrices, drawn anew. FileError if these are others.
    """
    inputs = to_numbers(array(table, "input"))
    if any(name.startswith("target") for name in table):
        return inputs, array(table, "target").astype(np.float64)
    drawn, targets = new_problems(*problem, len(table))
    if (drawn != inputs).mean() > 1e-3:  # a few third digits may be rounded otherwise elsewhere
        raise FileError("other matrices are drawn here than are stored: install the versions of requirements.txt")
    return inputs, targets


def path_of(folder: Path, spectrum: str) -> Path:
    """Where the answers of the run in a folder are."""
    folder = folder.resolve()
    if folder.parent == RUNS:
        return PREDICTIONS / f"{folder.name}-on-{spectrum}.parquet"
    return folder / f"predictions-on-{spectrum}.parquet"


def imported_path(name: str) -> Path:
    """Where imported answers are, which have no run: see tools/published.py. ValueError for a name with a path."""
    if Path(name).name != name:
        raise ValueError(f"a name without folders expected, got {name!r}")
    return PREDICTIONS / f"imported-{name}.parquet"


def predict(run: Run, n: int, spectrum: str | None = None) -> Path:
    """Solve n fresh problems and store the answers. spectrum: of the problems; default: the training's.

    The problems are the first of a stored test set, which a run of data/runs makes if there is none; where it has
    fewer, they are stored with the answers. Matrices are read as they are, also where they are larger than any that the
    model has seen.
    """
    config = run.config
    spectrum = spectrum or config.spectrum
    check_name("spectrum", spectrum, SPECTRA)
    problem = config.task, config.size, spectrum, config.entries
    path, shared, own = path_of(run.folder, spectrum), problems_path(*problem), {}
    if path.parent == PREDICTIONS and not shared.exists():
        store(shared, problem_columns(*new_problems(*problem, n), spectrum), {"seed": str(TEST_SEED)})
    if shared.exists() and pq.read_metadata(shared).num_rows >= n:
        inputs = to_numbers(array(read(shared)[0][:n], "input"))
    else:
        inputs, targets = new_problems(*problem, n)
        own = problem_columns(inputs, targets, spectrum)
    about = {"task": config.task, "size": str(config.size), "spectrum": spectrum, "entries": config.entries}
    answers = columns("prediction", to_ids(answer(run.model, inputs)))
    store(path, own | answers, about | {"weights": run.weights})
    return path


def is_current(folder: Path, spectrum: str, n: int) -> bool:
    """Whether n answers are stored that were made by the weights that the run has now."""
    path = path_of(folder, spectrum)
    if not path.exists():
        return False
    stored = pq.read_metadata(path)
    weights = (stored.metadata or {}).get(b"weights", b"").decode()
    return stored.num_rows == n and weights == files.weights_checksum(folder)


def load_predictions(
    run: str | Path, spectrum: str = "semicircle", n: int | None = None
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """(task, inputs (N, n, n), targets, predictions (N, *target shape)) of a run, by name or path, or of imported
    answers, by name.

    spectrum: of the problems, for a run. n: the first so many of them, at most. FileError if there are no answers to
    them, or none of these weights.
    """
    check_name("spectrum", spectrum, SPECTRA)
    n = None if n is None else whole_number("n", n, 1)
    if isinstance(run, str) and Path(run).name == run and os.path.exists(imported_path(run)):
        path, weights = imported_path(run), None
    else:
        folder, command = find(run), f"python -m mathtransformer predict {run} --spectrum {spectrum}"
        path, weights = path_of(folder, spectrum), files.weights_checksum(folder)
        if not path.exists():
            raise FileError(f"{path} does not exist: make it with `{command}`")
    table, about = read(path)
    if about.get("weights") != weights:
        raise FileError(f"{path} was made by other weights than those in {folder}: make it anew with `{command}`")
    problem = about["task"], int(about["size"]), about.get("spectrum"), about.get("entries")  # imported: not known
    whole = table if "input_0_0" in table else read(problems_path(*problem))[0]
    parts = *problems_of(whole, *problem), to_numbers(array(table, "prediction"))
    return about["task"], *(part[: len(table)][:n] for part in parts)


def stored_seeds(run: str) -> list[str]:
    """The run and its repetitions with seeds 1 to 9, those that have predictions."""
    names = [run, *(f"{run}-seed{seed}" for seed in range(1, 10))]
    return [name for name in names if imported_path(name).exists() or any(PREDICTIONS.glob(f"{name}-on-*.parquet"))]


def judged(run: str | Path, spectrum: str = "semicircle", n: int | None = None) -> pd.DataFrame:
    """One row a stored answer: the properties of the answer, then those of the problem. See `load_predictions`."""
    task, inputs, targets, predictions = load_predictions(run, spectrum, n)
    return pd.concat([properties(task, inputs, targets, predictions), problem_properties(task, inputs)], axis=1)
