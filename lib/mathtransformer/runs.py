"""Runs: the folders under data/runs that hold a trained model, how it was trained, and its log.

model.safetensors       weights, in half precision
run.json                configuration, seed, versions, examples, seconds, and the checksum of the weights
log.csv                 one row an evaluation
checkpoint.safetensors  all that a training needs to go on, bit for bit (not kept in git)

Each file is written beside its place and then moved there, so that a reader or a crash never meets half a file.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

try:
    import fcntl
except ImportError:  # Windows has none: trainings are not locked there
    fcntl = None

from .config import Config
from .encodings import choose
from .evaluation import answer
from .model import Transformer
from .problems import check_inputs

RUN_FILES = ("checkpoint.safetensors", "model.safetensors", "run.json", "log.csv")
FORMAT = 1  # raised when a run of an older version can no longer be read
RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"


class RunError(ValueError):
    """A run folder that cannot be read or written; the message says which file and what to do."""


def write_atomically(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, values: dict) -> None:
    write_atomically(path, (json.dumps(values, indent=1) + "\n").encode())


def save_checkpoint(folder: Path, tensors: dict[str, torch.Tensor], state: dict) -> None:
    """One file, so that weights, optimizer and counters can never disagree."""
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"state": json.dumps(state)})
    write_atomically(folder / "checkpoint.safetensors", content)


def load_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        raise RunError(f"{path} does not exist: there is nothing to resume; train without --resume")
    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise RunError(f"{path} is damaged ({error}): delete it, or train again with --force") from None


def check_same(folder: Path, old: dict, config: Config) -> None:
    """Raise RunError, naming the differences, unless a run was begun with this configuration."""
    old, new = Config.from_json(old).flat(), config.flat()
    changes = [f"{key}: {old[key]!r}, now {new[key]!r}" for key in new if old[key] != new[key]]
    if changes:
        raise RunError(f"{folder} was begun with other options ({'; '.join(changes)}): choose another --out")


def prepare(folder: Path, resume: bool, force: bool) -> None:
    """Make the run's folder ready, or raise RunError before any work is done."""
    used = [name for name in RUN_FILES if (folder / name).exists()]
    if used and not (resume or force):
        raise RunError(f"{folder} exists: continue it with --resume, or train it anew with --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "writable", b"")
        (folder / "writable").unlink()
    except OSError as error:
        raise RunError(f"cannot write into {folder}: {error.strerror}; choose another folder with --out") from None
    if force:
        with lock(folder):
            for name in RUN_FILES:
                (folder / name).unlink(missing_ok=True)


@contextmanager
def lock(folder: Path, wait: bool = False):
    """Refuse, with RunError, to write into a folder that another process has locked, or wait for it.

    The lock is on the folder itself, and the system releases it when the process ends, however it ends.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    except BlockingIOError:
        raise RunError(f"another process is training into {folder}: wait for it, or choose another --out") from None
    finally:
        os.close(descriptor)


def what_was_begun(folder: Path) -> str | None:
    """What a training can go on from: "checkpoint", else the weights of a "finished" or a cut ("published") run.

    None for an empty folder. A checkpoint that is not ahead of finished weights is of no more use.
    """
    info = read_info(folder) if (folder / "run.json").exists() else None
    if (folder / "checkpoint.safetensors").exists():
        _, state = load_checkpoint(folder)
        if info is None or not info["finished"] or state["step"] > info["steps"]:
            return "checkpoint"
    return None if info is None else "finished" if info["finished"] else "published"


def publish(folder: Path, model: Transformer, log: pd.DataFrame, info: dict) -> None:
    """Write what others read: weights, log, then run.json with the checksum that binds weights and configuration."""
    weights = save({name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()})
    write_atomically(folder / "model.safetensors", weights)
    write_log(folder, log)
    write_json(folder / "run.json", {"format": FORMAT, **info, "sha256": checksum(weights, info["config"])})


def checksum(weights: bytes, config: dict) -> str:
    """Of the weights and the configuration, so that neither can be changed without the other."""
    return hashlib.sha256(weights + json.dumps(config, sort_keys=True).encode()).hexdigest()


def write_log(folder: Path, log: pd.DataFrame) -> None:
    write_atomically(folder / "log.csv", log.to_csv(index=False, float_format="%.6g").encode())


class Run:
    """A trained model with its history. `info` is run.json, `log` is log.csv."""

    def __init__(self, folder: Path, config: Config, model: Transformer, info: dict):
        self.folder, self.config, self.model, self.info = folder, config, model, info

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def log(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "log.csv")

    def predict(self, inputs, batch: int = 1000) -> np.ndarray:
        """Solve matrices, number by number.

        inputs: (N, n, n) finite real numbers below 1e9 in magnitude, symmetric for a symmetric task; the model
        sees them rounded to three significant digits. Returns float64 shaped like the targets: eigenvalues
        (N, n) descending; eigenvectors (N, n+1, n), eigenvalues ascending in row 0, then V; inversion (N, n, n).
        NaN where a number does not decode. Raises ValueError naming the problem and the offending index.
        """
        inputs = check_inputs(self.config.task, inputs)
        if inputs.shape[1] != self.config.size:
            n = self.config.size
            raise ValueError(f"{self.name} solves {n}x{n} matrices, got inputs of shape {inputs.shape}")
        return answer(self.model, inputs, batch)


def find(name_or_path: str | Path) -> Path:
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder
    known = sorted(path.name for path in RUNS.glob("*") if path.is_dir())
    if len(folder.parts) == 1:
        choose("run", folder.name, known)
        return RUNS / folder.name
    raise RunError(f"{folder} is not a folder")


def read_info(folder: Path) -> dict:
    """run.json, checked. Raises RunError if it is missing, damaged or of another version."""
    path = folder / "run.json"
    if not path.exists():
        unfinished = (folder / "checkpoint.safetensors").exists()
        hint = "its training was cut short: continue it with --resume" if unfinished else "this is not a run"
        raise RunError(f"{path} does not exist: {hint}")
    try:
        info = json.loads(path.read_text())
        version, _, _ = info["format"], info["config"], info["finished"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged: {error!r}") from None
    if version != FORMAT:
        raise RunError(f"{path} has format {version}, this version of mathtransformer reads format {FORMAT}")
    return info


def load_run(name_or_path: str | Path) -> Run:
    """Load a run by name (a folder of data/runs) or by path.

    Raises ValueError for an unknown name (with the near matches), and RunError, a ValueError, for a folder
    whose files are missing, damaged, edited, or of another version, task or size.
    """
    folder = find(name_or_path)
    info = read_info(folder)
    path = folder / "model.safetensors"
    if not path.exists():
        raise RunError(f"{path} does not exist")
    content = path.read_bytes()
    if checksum(content, info.get("config")) != info.get("sha256"):
        raise RunError(f"{path} and run.json do not belong together: one is truncated, edited, or of another run")
    try:
        config = Config.from_json(info["config"])
        model = Transformer(config.task, config.size, config.model)
        model.load_state_dict({name: tensor.float() for name, tensor in load(content).items()})
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise RunError(f"{folder}: run.json and model.safetensors do not fit together: {error}") from None
    return Run(folder, config, model.eval(), info)
