"""Runs: the folders under data/runs that hold a trained model, how it was trained, and its log.

model.safetensors       weights, in half precision
run.json                configuration, seed, versions, examples, seconds; checksums of itself, the weights and the log
log.csv                 one row an evaluation; ahead of run.json while a training goes on
checkpoint.safetensors  all that a training needs to go on, bit for bit, with its checksum (not kept in git)

Each file is written beside its place and then moved there, so that a reader or a crash never meets half a file.
What was damaged afterwards is refused by name.
"""

from __future__ import annotations

import hashlib
import io
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
from .evaluation import answer, check_inputs
from .model import Transformer
from .problems import whole_number

RUN_FILES = ("checkpoint.safetensors", "model.safetensors", "run.json", "log.csv")
FORMAT = 1  # raised when a run of an older version can no longer be read
RUNS = Path(__file__).resolve().parents[2] / "data" / "runs"


class RunError(ValueError):
    """A run folder that cannot be read or written; the message says which file and what to do."""


def write_atomically(path: Path, content: bytes) -> None:
    write_together({path: content})


def write_together(files: dict[Path, bytes]) -> None:
    """None of them takes its place before all are written, so that a full disk leaves the old ones."""
    partials = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in files}
    try:
        for path, content in files.items():
            with open(partials[path], "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, partial in partials.items():
            os.replace(partial, path)
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def seal(values: dict) -> str:
    """As JSON to read, with a checksum at its end."""
    return json.dumps({**values, "checksum": checksum(b"", values)}, indent=1) + "\n"


def save_checkpoint(folder: Path, tensors: dict[str, torch.Tensor], state: dict) -> None:
    """One file, so that weights, optimizer and counters can never disagree."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state)
    about = {"format": str(FORMAT), "state": text, "sha256": checksum(save(tensors), text)}
    write_atomically(folder / "checkpoint.safetensors", save(tensors, about))


def load_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        raise RunError(f"{path} does not exist: there is nothing to resume; train without --resume")
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state, version = json.loads(about["state"]), about.get("format")
        if version == str(FORMAT) and about["sha256"] != checksum(save(tensors), about["state"]):
            raise ValueError("wrong checksum")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}): delete it, or train again with --force") from None
    if version != str(FORMAT):
        raise RunError(f"{path} has format {version}, this version of mathtransformer reads format {FORMAT}")
    return tensors, state


def read_config(path: Path, values: dict) -> Config:
    try:
        return Config.from_json(values)
    except ValueError as error:
        raise RunError(f"{path}: {error}") from None


def check_same(folder: Path, old: dict, config: Config) -> None:
    """Raise RunError, naming the differences, unless a run was begun with this configuration."""
    old, new = read_config(folder, old).flat(), config.flat()
    changes = [f"{key}: {old[key]!r}, now {new[key]!r}" for key in new if old[key] != new[key]]
    if changes:
        raise RunError(f"{folder} was begun with other options ({'; '.join(changes)}): choose another --out")


def prepare(folder: Path, may_exist: bool) -> None:
    """Make the run's folder ready, or raise RunError before any work is done."""
    if not may_exist and any(os.path.exists(folder / name) for name in RUN_FILES):
        raise RunError(f"{folder} exists: continue it with --resume, or train it anew with --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "writable", b"")
        (folder / "writable").unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write into {folder}: {error.strerror}; choose another folder with --out") from None


def clear(folder: Path) -> None:
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
        for partial in (path for name in RUN_FILES for path in folder.glob(f".{name}.*")):
            partial.unlink(missing_ok=True)  # of a process that was killed while it wrote
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
        path, (_, state) = folder / "checkpoint.safetensors", load_checkpoint(folder)
        legs = [read_config(path, leg["config"]) for leg in (state, *state["legs"])]
        if info and read_config(folder / "run.json", info["config"]) not in legs:
            raise RunError(f"{path} and run.json do not belong together: one is of another training")
        if info is None or not info["finished"] or state["step"] > info["steps"]:
            return "checkpoint"
    elif info is None and (folder / "model.safetensors").exists():
        raise RunError(f"{folder} has weights but no run.json: choose another --out, or train anew with --force")
    return None if info is None else "finished" if info["finished"] else "published"


def publish(folder: Path, model: Transformer, log: pd.DataFrame, info: dict) -> None:
    """Write what others read: weights, log, and run.json with the checksums that bind them together."""
    weights = save({name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()})
    rows = table(log)
    info = {"format": FORMAT, **info, "sha256": checksum(weights, info["config"])}
    info["log"] = {"rows": len(log), "sha256": checksum(rows, info["config"])}
    files = {"model.safetensors": weights, "log.csv": rows, "run.json": seal(info).encode()}
    write_together({folder / name: content for name, content in files.items()})


def checksum(content: bytes, values) -> str:
    """Of a file's content and of the values that belong to it, so that neither can be changed without the other."""
    return hashlib.sha256(content + json.dumps(values, sort_keys=True).encode()).hexdigest()


def table(log: pd.DataFrame) -> bytes:
    return log.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()


def write_log(folder: Path, log: pd.DataFrame) -> None:
    write_atomically(folder / "log.csv", table(log))


class Run:
    """A trained model with its history. `info` is run.json, `log` is log.csv."""

    def __init__(self, folder: Path, config: Config, model: Transformer, info: dict):
        self.folder, self.config, self.model, self.info = folder, config, model, info

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def log(self) -> pd.DataFrame:
        """The rows up to the weights: a training that goes on has added some, until it publishes new weights."""
        path = self.folder / "log.csv"
        if not path.exists():
            raise RunError(f"{path} does not exist")
        text, about = path.read_text(errors="replace"), self.info.get("log")
        if about:  # older runs have no checksum of their log
            text = "".join(text.splitlines(keepends=True)[: about["rows"] + 1])
            if checksum(text.encode(), self.info["config"]) != about["sha256"]:
                raise RunError(f"{path} is truncated, edited, or of another run than run.json")
        try:
            return pd.read_csv(io.StringIO(text))
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}") from None

    def predict(self, inputs, batch: int = 1000) -> np.ndarray:
        """Solve matrices, number by number.

        inputs: (N, n, n) finite real numbers below 1e9 in magnitude, symmetric for a symmetric task; the model
        sees them rounded to three significant digits. Returns float64 shaped like the targets: eigenvalues
        (N, n) descending; eigenvectors (N, n+1, n), eigenvalues ascending in row 0, then V, whose columns may have
        either sign; inversion (N, n, n).
        NaN where a number does not decode. Raises TypeError for what is not real numbers, ValueError naming the
        problem and the offending index for other unfit inputs.
        """
        inputs = check_inputs(self.config.task, inputs)
        if inputs.shape[1] != self.config.size:
            n = self.config.size
            raise ValueError(f"{self.name} solves {n}x{n} matrices, got inputs of shape {inputs.shape}")
        return answer(self.model, inputs, min(whole_number("batch", batch, 1), max(len(inputs), 1)))


def find(name_or_path: str | Path) -> Path:
    folder = Path(name_or_path)
    if os.path.isdir(folder):  # unlike Path.is_dir, also where a name is too long for the system
        return folder
    known = sorted(path.name for path in RUNS.glob("*") if path.is_dir())
    if len(folder.parts) == 1:
        choose("run", folder.name, known)
        return RUNS / folder.name
    raise RunError(f"{str(folder)!r} is not a folder")


def read_info(folder: Path) -> dict:
    """run.json, checked. Raises RunError if it is missing, damaged or of another version."""
    path = folder / "run.json"
    if not path.exists():
        unfinished = (folder / "checkpoint.safetensors").exists()
        hint = "its training was cut short: continue it with --resume" if unfinished else "this is not a run"
        raise RunError(f"{path} does not exist: {hint}")
    try:
        text = path.read_text()
        info = json.loads(text)
        version, _, _ = info["format"], info["config"], info["finished"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error!r}") from None
    if version != FORMAT:
        raise RunError(f"{path} has format {version}, this version of mathtransformer reads format {FORMAT}")
    sealed = "log" in info or "checksum" in info  # older runs have neither; no single change takes both away
    info.pop("checksum", None)
    if sealed and text != seal(info):
        raise RunError(f"{path} is damaged or edited: its checksum is wrong")
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
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    if checksum(content, info.get("config")) != info.get("sha256"):
        raise RunError(f"{path} and run.json do not belong together: one is truncated, edited, or of another run")
    try:
        config = Config.from_json(info["config"])
        model = Transformer(config.task, config.size, config.model)
        model.load_state_dict({name: tensor.float() for name, tensor in load(content).items()})
    except (SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise RunError(f"{folder}: run.json and model.safetensors do not fit together: {error}") from None
    return Run(folder, config, model.eval(), info)
