"""Checkpoints: while a training goes on, all that it needs to go on, bit for bit, in a file of its run's folder.

It is not kept in git. Where it is missing, a training goes on from the weights that were published last (runs.py).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from .. import files
from ..files import FileError
from . import runs
from .config import Config

CHECKPOINT = "checkpoint.safetensors"
EVERYTHING = ("model*.safetensors", *runs.PUBLISHED[1:], files.SUMS, CHECKPOINT)  # patterns of names


def save(folder: Path, tensors: dict[str, torch.Tensor], state: dict) -> None:
    """One file with its own checksum, so that weights, optimizer and counters can never disagree."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state)
    checksum = hashlib.sha256(to_bytes(tensors) + text.encode()).hexdigest()
    about = {"format": str(runs.FORMAT), "state": text, "sha256": checksum}
    files.write({folder / CHECKPOINT: to_bytes(tensors, about)})


def load(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """(tensors, state) as saved, its "config" as a Config. FileError if the file is damaged or of another version."""
    path = folder / CHECKPOINT
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about["format"] != str(runs.FORMAT):
            raise ValueError(f"format {about['format']}, this version reads {runs.FORMAT}")
        if about["sha256"] != hashlib.sha256(to_bytes(tensors) + about["state"].encode()).hexdigest():
            raise ValueError("wrong checksum")
        state = json.loads(about["state"])
        return tensors, {**state, "config": Config.from_json(state["config"])}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is damaged ({error}): delete it, or train again with --force") from None


def begun(folder: Path) -> tuple[dict[str, torch.Tensor], dict] | None:
    """What a training can go on from, (tensors, state): its checkpoint, or published weights where there is no
    checkpoint, or an older one. None for a folder without a run. Only the state of published weights says "finished".

    FileError for a damaged run.
    """
    saved = load(folder) if (folder / CHECKPOINT).exists() else None
    if not any((folder / name).exists() for name in (*runs.PUBLISHED, files.SUMS)):
        return saved
    try:
        run = runs.load_run(folder.resolve())
    except FileError:
        if saved is None:
            raise
        return saved  # cut short while it was published: the checkpoint was written before
    if saved and not run.info["finished"] and saved[1]["step"] >= run.info["steps"]:
        return saved
    tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    rows = run.log.to_dict("records")
    return tensors, {**run.info, "config": run.config, "step": run.info["steps"], "log": {"rows": rows}}
