"""Predictions on disk: one parquet file a run and test set, from which every metric in the notebooks is computed.

Columns: input_i_j, target_i(_j), prediction_i(_j). Inputs are rounded to their tokens. The file's metadata says
which weights made it, so that predictions of an older model are noticed.
"""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .config import Config
from .evaluation import answer, test_set
from .metrics import problem_properties, properties
from .runs import Run, RunError, read_info, write_atomically

PREDICTIONS = Path(__file__).resolve().parents[2] / "data" / "predictions"
TEST_SEED = 2_000_000  # the log's own test problems come from another seed


def columns(prefix: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """(N, a, b) -> {prefix_0_0: (N,), ...}."""
    places = itertools.product(*(range(k) for k in array.shape[1:]))
    flat = array.reshape(len(array), -1)
    return {"_".join([prefix, *map(str, place)]): flat[:, k] for k, place in enumerate(places)}


def path_of(run: str, spectrum: str) -> Path:
    return PREDICTIONS / f"{run}-on-{spectrum}.parquet"


def predict(run: Run, n: int, spectrum: str | None = None, path: Path | None = None) -> Path:
    """Solve n fresh problems and store them. `spectrum`: of the test problems; default: the training's."""
    config: Config = run.config
    spectrum = spectrum or config.spectrum
    inputs, targets = test_set(config, n, TEST_SEED, spectrum)
    table = {
        **columns("input", inputs),
        **columns("target", targets.astype(np.float32)),  # to seven digits, where a token has three
        **columns("prediction", answer(run.model, inputs)),
    }
    about = {
        "run": run.name,
        "task": config.task,
        "sha256": run.info["sha256"],
        "spectrum": spectrum,
        "seed": str(TEST_SEED),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(table).replace_schema_metadata(about), buffer, compression="zstd", compression_level=9)
    path = path or path_of(run.name, spectrum)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    return path


def is_current(run_folder: Path, spectrum: str, n: int) -> bool:
    """Whether stored predictions exist and were made by the weights that the run has now."""
    path = path_of(run_folder.name, spectrum)
    if not path.exists():
        return False
    stored = pq.read_metadata(path)
    about = stored.metadata or {}
    return stored.num_rows == n and about.get(b"sha256", b"").decode() == read_info(run_folder)["sha256"]


def load_predictions(run: str, spectrum: str = "semicircle") -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """(task, inputs (N, n, n), targets, predictions (N, *target shape)). Raises RunError if there are none."""
    path = path_of(run, spectrum)
    if not path.exists():
        raise RunError(f"{path} does not exist: make it with `python -m mathtransformer predict {run}`")
    stored = pq.read_table(path)
    table, arrays = stored.to_pandas(), []
    for prefix in ("input", "target", "prediction"):
        names = [name for name in table.columns if name.startswith(f"{prefix}_")]
        shape = [int(k) + 1 for k in names[-1].split("_")[1:]]
        arrays.append(table[names].to_numpy(np.float64).reshape(-1, *shape))
    return stored.schema.metadata[b"task"].decode(), *arrays


def stored_seeds(run: str) -> list[str]:
    """The run and its repetitions with seeds 1 to 9, those that have predictions."""
    names = [run, *(f"{run}-seed{seed}" for seed in range(1, 10))]
    return [name for name in names if any(PREDICTIONS.glob(f"{name}-on-*.parquet"))]


def judged(run: str, spectrum: str = "semicircle") -> pd.DataFrame:
    """One row a stored prediction: the properties of the prediction, then those of the problem."""
    task, inputs, targets, predictions = load_predictions(run, spectrum)
    return pd.concat([properties(task, inputs, targets, predictions), problem_properties(task, inputs)], axis=1)
