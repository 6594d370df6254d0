"""Runs: the folders under data/runs that hold a trained model, how it was trained, and its log.

model.safetensors       weights, in half precision but for the logits of mantissas; what is beyond 9 MB in
                        model-2.safetensors and so on
run.json                configuration, versions, examples, seconds
log.csv                 one row an evaluation
SHA256SUMS              checksums of these, for `sha256sum -c` and for whoever loads the run
checkpoint.safetensors  while a training goes on: see checkpoints.py

No crash leaves half a file; what was damaged afterwards is refused by name.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from .. import files
from ..checks import as_matrices, as_numbers, check_name, whole_number
from ..data.matrices import MAX_SIZE
from ..data.tasks import draw, get_task
from ..evaluation.answers import Certainty, answer, certainty, largest_entry, simplified
from ..evaluation.solving import Solved, solve, view
from ..files import FileError
from ..model.transformer import Transformer
from ..paths import RUNS
from .config import Config

PUBLISHED = ("model.safetensors", "run.json", "log.csv")
FORMAT = 2  # raised when runs of an older version can no longer be read
LARGEST_FILE = 9_000_000  # bytes
LARGEST = 9.995e8  # entries from here on have no FP15 token


def publish(
    folder: Path, model: Transformer, log: pd.DataFrame, info: dict, precision: torch.dtype = torch.float16
) -> None:
    """Write what others read: weights, log, run.json, and the checksums that bind them together.

    Logits of mantissas are in the thousands: from weights in half precision they would be off by one.
    """
    weights = {
        name: tensor.detach().to(torch.float32 if ".mantissa." in name else precision).contiguous()
        for name, tensor in model.state_dict().items()
    }
    rows = log.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    text = json.dumps({"format": FORMAT, **info}, indent=1) + "\n"
    contents = {name: save(shard) for name, shard in shards(weights).items()}
    contents |= {"run.json": text.encode(), "log.csv": rows.encode()}
    contents[files.SUMS] = files.sums(contents)
    files.write({folder / name: content for name, content in contents.items()})


def shards(weights: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Weights by the file that they are to be in, so that none is larger than repositories like, if tensors allow."""
    found, size = [{}], 0
    for name, tensor in weights.items():
        size += tensor.nbytes
        if found[-1] and size > LARGEST_FILE:
            found, size = [*found, {}], tensor.nbytes
        found[-1][name] = tensor
    return {f"model{'' if number == 1 else f'-{number}'}.safetensors": shard for number, shard in enumerate(found, 1)}


def check_same(folder: Path, old: Config, config: Config) -> None:
    """FileError, naming the differences, unless a run was begun with this configuration."""
    if differences := old.differences(config):
        raise FileError(
            f"{folder} was begun with other options ({differences}): choose another --out, or --force to begin anew"
        )


@dataclass
class Run:
    """A trained model with its history. `info` is run.json, `log` is log.csv, `weights` the checksum of the weights."""

    folder: Path
    config: Config
    model: Transformer
    info: dict
    log: pd.DataFrame
    weights: str

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def like_training(self, n: int) -> np.ndarray:
        """n matrices (n, size, size) as the model was trained on: always the same."""
        config = self.config
        return draw(self.model.task, config.size, n, np.random.default_rng(0), config.spectrum, config.entries)

    @cached_property
    def usual(self) -> np.ndarray:
        """The largest entries of 10,000 matrices as the model was trained on."""
        return largest_entry(simplified(self.model, self.like_training(10_000), None)[0])

    def compared(self, inputs) -> pd.DataFrame:
        """How far inputs are from what the model has seen, one row a matrix.

        Each column is the share of 10,000 matrices as it was trained on that have a smaller value, and half of those
        that have the same: of `largest_entry`, `size` (Frobenius norm over largest entry), `cond_M` and, for a
        symmetric task, `gap`. 0 or 1: beyond them all.
        """

        def properties(matrices: np.ndarray) -> pd.DataFrame:
            largest, norms = largest_entry(matrices), np.linalg.norm(matrices, axis=(1, 2))
            columns = {"largest_entry": largest, "size": norms / np.where(largest == 0, 1, largest)}
            return pd.DataFrame(columns | self.model.task.problem_properties(matrices))

        seen, asked = properties(self.like_training(10_000)), properties(self.checked(inputs))
        shares = {
            name: sum(np.searchsorted(np.sort(seen[name]), asked[name], side) for side in ("left", "right"))
            for name in seen
        }
        return pd.DataFrame(shares) / (2 * len(seen))

    def predict(self, inputs, batch: int = 250, *, any_scale: bool = True) -> np.ndarray:
        """Solve matrices, number by number.

        inputs: (N, n, n) finite real numbers below 1e9 in magnitude, symmetric for a symmetric task; the model
        sees them rounded to three significant digits. Returns float64 shaped like the targets: eigenvalues (N, n),
        learned in descending order; eigenvectors (N, n+1, n), eigenvalues learned in ascending order in row 0, then V,
        whose columns may have either sign; inversion (N, n, n). A model may write eigenvalues out of order, and the
        less it knows the more often it does: they are returned as written. NaN where a number does not decode.
        any_scale: models that read canonical matrices see one that is larger or smaller than those of their training on
        the scale of these (`answers.simplified`).
        Raises TypeError for what is not real numbers, ValueError naming the problem and the offending index for other
        unfit inputs.
        """
        return answer(self.model, *self.asked(inputs, batch, any_scale))

    def certainty(self, inputs, batch: int = 250, *, any_scale: bool = True) -> Certainty:
        """`predict`, with how sure the model is of each number: see `answers.Certainty`. Arguments and errors as of
        `predict`; ValueError for a model that writes tokens: `log_probabilities` can be asked of its answers."""
        if self.config.model.output != "number":
            raise ValueError(f"{self.name} writes tokens, not numbers: see log_probabilities")
        return certainty(self.model, *self.asked(inputs, batch, any_scale))

    def asked(self, inputs, batch: int, any_scale: bool) -> tuple[np.ndarray, int, np.ndarray | None]:
        """Arguments of `predict`, checked; and the usual largest entries, if a scale may be changed to theirs."""
        inputs = self.checked(inputs)
        batch = min(whole_number("batch", batch, 1), max(len(inputs), 1))
        scaled = any_scale and self.config.model.canonical_input and self.model.task.rescaled
        return inputs, batch, self.usual if scaled else None

    def solve(self, inputs, tolerance: float = 0.05, tries: int = 1, repair=(), seed: int = 0) -> Solved:
        """`predict`, checked: returns answers, residual, ok and asked, see `solving.Solved` and `repair.residual`. Of
        eigenvalues the check is necessary, not sufficient.

        tries: an answer that is not within the tolerance is asked for again, as an equivalent problem (`solving.view`,
        drawn from `seed`), up to so many times in all. repair: names in `repair.REPAIRS`, such as ("jacobi",), of what
        is done in order, after each try, to answers that are not within the tolerance. Of all that is found for a
        problem, what has the smallest residual is returned. Errors as of `predict`.
        """
        inputs, rng = self.checked(inputs), np.random.default_rng(whole_number("seed", seed, 0))
        repair = [repair] if isinstance(repair, str) else list(repair)
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be 0 or more, got {tolerance!r}")

        def ask(matrices: np.ndarray, attempt: int) -> np.ndarray:
            if not attempt:
                return self.predict(matrices)
            equivalent, restore = view(self.model.task, matrices, np.quantile(self.usual, (0.05, 0.95)), rng)
            return restore(self.predict(equivalent))

        return solve(self.model.task, inputs, ask, tolerance, whole_number("tries", tries, 1), repair)

    def log_probabilities(self, inputs, targets, batch: int = 1000) -> np.ndarray:
        """How probable the model finds solutions: float64 (N, tokens), the natural logarithm of the probability of each
        token of the encoded target and of the end, the target being fed in. For output="number" a token is a number.
        ValueError for models that read canonical matrices or write more (cotrain): that is another solution. Of their
        own answers, see `certainty`.

        inputs: as for `predict`. targets: (N, *target shape). Tokens that a shorter target lacks have 0.
        """
        inputs, model, options = self.checked(inputs), self.model, self.config.model
        targets, shape = as_numbers(targets), (len(inputs), *self.model.asked)
        if targets.shape != shape:
            raise ValueError(f"targets of shape {shape} expected, got {targets.shape}")
        more = options.cotrain and model.task.richer_shape(model.size) != model.asked
        if options.canonical_input or options.canonical_shift or more:
            raise ValueError(f"{self.name} reads canonical matrices or writes more than the solution (cotrain)")
        batch, device = whole_number("batch", batch, 1), next(model.parameters()).device
        ids = model.ids(inputs)[0], torch.from_numpy(model.writer.encoding.encode(targets))
        parts = zip(*(part.to(device).split(batch) for part in ids))
        parts = [model.log_probabilities(*part).cpu().numpy() for part in parts if len(part[0])]
        return np.concatenate([np.empty((0, model.writer.length)), *parts])

    def checked(self, inputs) -> np.ndarray:
        inputs, n = as_matrices(inputs, self.model.task.symmetric, LARGEST, MAX_SIZE), self.config.size
        if inputs.shape[1] != n:
            raise ValueError(f"{self.name} solves {n}x{n} matrices, got inputs of shape {inputs.shape}")
        return inputs


def find(name_or_path: str | Path) -> Path:
    """The folder of a run: a bare name means one of data/runs first, and a folder here only if that has no such run."""
    folder = Path(name_or_path)
    if len(folder.parts) <= 1 and not str(name_or_path).startswith("."):
        known = sorted(path.parent.name for path in RUNS.glob("*/run.json"))
        if folder.name in known:
            return RUNS / folder.name
        if not os.path.isfile(folder / "run.json"):  # os: names may be too long
            if not known:
                raise FileError(f"no run {folder.name!r}: {RUNS} has none; MATHTRANSFORMER_HOME says where data/ is")
            check_name("run", folder.name, known)
    elif not os.path.isdir(folder):
        raise FileError(f"{str(folder)!r} is not a folder")
    return folder.absolute()  # which no one takes for a bare name


def load_run(name_or_path: str | Path) -> Run:
    """Load a run by name (a folder of data/runs) or by path.

    Raises ValueError for an unknown name (with the near matches), and FileError, a ValueError, for a folder
    whose files are missing, damaged, edited, or of another version, task or size.
    """
    folder = find(name_or_path)
    if not (folder / "run.json").exists():
        raise FileError(f"{folder / 'run.json'} does not exist: this is not a run")
    first, text, log = (files.read_checked(folder, name) for name in PUBLISHED)
    others = [name for name in files.read_sums(folder) if name.startswith("model-")]
    weights = [first, *(files.read_checked(folder, name) for name in others)]
    try:
        info = json.loads(text)
        if info["format"] != FORMAT:
            raise ValueError(f"format {info['format']}, this version of mathtransformer reads format {FORMAT}")
        config = Config.from_json(info["config"])
        model = Transformer(get_task(config.task), config.size, config.model)
        model.load_state_dict({name: tensor.float() for part in weights for name, tensor in load(part).items()})
        table = pd.read_csv(io.BytesIO(log))
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{folder} does not fit together: {error}") from None
    return Run(folder, config, model.eval(), info, table, files.weights_checksum(folder))
