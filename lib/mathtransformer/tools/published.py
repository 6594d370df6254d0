"""The paper's own files: released models become runs, released predictions become stored answers.

Source: Charton's code (LAWT), which writes a model with `torch.save` and predictions as text.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .. import files
from ..analysis.predictions import columns, imported_path, store
from ..checks import whole_number
from ..data.encodings import encoding
from ..data.matrices import LIMIT, MAX_SIZE
from ..data.tasks import get_task
from ..files import FileError
from ..model.options import PAPER
from ..model.tokens import END, TokenWriter, word_ids
from ..model.transformer import Transformer
from ..paths import RUNS
from ..training import checkpoints, runs
from ..training.config import RECIPES, Config, Phase

OPERATIONS = {"eigenvalues": "eigenvalues", "eigenvectors": "eigenvectors", "invert_matrix": "inversion"}
ENCODINGS = {"FP15,2,16": "FP15", "float,2,1000": "P1000", "float,2,10": "P10", "floatsymbol,2": "B1999"}


def option(params: dict, name: str, table: dict[str, str]) -> str:
    if params[name] not in table:
        raise ValueError(f"{name} {params[name]!r} is none of {', '.join(table)}")
    return table[params[name]]


def configuration(saved: dict) -> Config:
    """The training that a released checkpoint says it is of. KeyError or ValueError if it does not say."""
    params = saved["params"]
    low, high = params["min_dimension"], params["max_dimension"]
    if low != high:
        raise ValueError(f"it solves matrices of several sizes, {low} to {high}")
    if params["max_input_coeff"] != LIMIT or params["min_input_coeff"] > 0 or params["noisy_input"]:
        raise ValueError(f"its matrices have other entries than up to {LIMIT:g}, without noise")
    task = get_task(option(params, "operation", OPERATIONS))
    model = {
        "embedding": option(params, "input_encoding", ENCODINGS),
        "output": option(params, "output_encoding", ENCODINGS),
        "width": params["enc_emb_dim"],
        "heads": params["n_enc_heads"],
        "encoder_layers": params["n_enc_layers"],
        "decoder_width": params["dec_emb_dim"],
        "decoder_heads": params["n_dec_heads"],
        "decoder_layers": params["n_dec_layers"],
    }
    examples = max(1, int(saved.get("n_total_iter", 0)) * int(params["batch_size"]))
    spectrum = params["eigen_distribution"] if task.symmetric else "semicircle"
    entries = "normal" if params["generator"] == "normal" else "uniform"
    phase = Phase(examples, batch=params["batch_size"], **RECIPES["paper"][2])
    size = whole_number("size", low, 1, MAX_SIZE)
    base = Config(task.name, size, (phase,), spectrum, entries, model=PAPER, training=RECIPES["paper"][1])
    return base.changed(**model)


# What the parts of a layer are called here, and there; where there are several, they are put together as one.
LAYER = {
    "attention.projection": [f"self_attention.{part}_lin" for part in "qkv"],
    "attention.output": ["self_attention.out_lin"],
    "feedforward.hidden": ["ffn.lin1"],
    "feedforward.output": ["ffn.lin2"],
    "norms.0": ["layer_norm1"],
    "norms.1": ["layer_norm2"],
}
DECODER_LAYER = {
    "cross.queries": ["cross_attention.q_lin"],
    "cross.keys_values": [f"cross_attention.{part}_lin" for part in "kv"],
    "cross.output": ["cross_attention.out_lin"],
    "norms.2": ["layer_norm15"],
}


def renamed(old: dict[str, Tensor], decoder: bool, layers: int) -> dict[str, Tensor]:
    """The weights of a released encoder or decoder, taken out of `old`, under the names that they have here."""
    side, number, table = ("decoder", 1, "writer") if decoder else ("encoder", 0, "read")
    new = {f"{table}.table.weight": old.pop("embeddings.weight")}
    new[f"positions.{number}.places.weight"] = old.pop("position_embeddings.weight")
    moved = {f"norms.{number}": ["layer_norm_emb"]}
    for i in range(layers):
        for name, parts in (LAYER | DECODER_LAYER if decoder else LAYER).items():
            moved[f"{side}.{i}.{name}"] = [f"layers.{i}.{part}" for part in parts]
    for name, parts in moved.items():
        for kind in ("weight", "bias"):
            new[f"{name}.{kind}"] = torch.cat([old.pop(f"{part}.{kind}") for part in parts])
    if decoder:
        if not torch.equal(old.pop("proj.weight"), new["writer.table.weight"]):
            raise ValueError("its output layer is not its table of embeddings")
        new["writer.bias"] = old.pop("proj.bias")
    return new


def import_model(path: Path, folder: Path) -> Path:
    """Make a run, in a folder of its own, of a released checkpoint. Its weights stay in single precision.

    FileError for a file that is no such checkpoint, saying what is missing, and for a folder that has a run already.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        config = configuration(saved)
        model = Transformer(get_task(config.task), config.size, config.model)
        weights: dict[str, Tensor] = {}
        for side, layers in (("encoder", config.model.encoder_layers), ("decoder", config.model.decoder_layers)):
            old = {name.removeprefix("module."): tensor.float() for name, tensor in saved[side].items()}
            weights |= renamed(old, side == "decoder", layers)
            if old:
                raise ValueError(f"{side}.{next(iter(old))} is not of the published network")
        for name, tensor in model.state_dict().items():  # the longest sequence of this size needs no more
            if name.startswith("positions."):
                weights[name] = weights[name][: len(tensor)]
        model.load_state_dict(weights)
    except KeyError as error:
        raise FileError(f"{path} is no released model: {error} is missing") from None
    except Exception as error:  # torch.load, which may meet anything, has no class of errors of its own
        raise FileError(f"{path} is no released model: {' '.join(str(error).split()):.300}") from None
    with files.lock(folder):
        if checkpoints.begun(folder) is not None:
            raise FileError(f"{folder} has a run already: choose another --out")
        steps = config.phases[0].examples // config.phases[0].batch
        info = {"config": config.to_json(), "finished": True, "steps": steps, "examples": config.phases[0].examples}
        info |= {"seconds": 0.0, "parameters": model.parameter_count(), "source": path.name}
        log = pd.DataFrame([{"step": steps, "examples": info["examples"]}])
        runs.publish(folder, model, log, info, torch.float32)
    return folder


# Four parts to an entry: its number, the matrix as NumPy prints it, the target's tokens, the answer's.
ENTRY = re.compile(r"Equation \d+ \(\d+/\d+\)\nsrc=(.*?)\ntgt=(\[.*?\])\n\S+ \S+ (\[.*?\])\s*", re.DOTALL)


def read_entries(text: str) -> list[tuple[np.ndarray, list[str], list[str]]]:
    """(matrix, tokens of the target, tokens of the answer) of each entry; ValueError names the line that is none."""
    entries, place, text = [], 0, text.strip() + "\n"
    while place < len(text):
        found = ENTRY.match(text, place)
        try:
            rows = [row.split() for row in re.findall(r"\[([^\[\]]+)\]", found[1])]
            entries.append((np.array(rows, np.float64), ast.literal_eval(found[2]), ast.literal_eval(found[3])))
        except (TypeError, ValueError, SyntaxError):
            line = text.count("\n", 0, place) + 1
            raise ValueError(f"line {line}: no entry of predictions begins here") from None
        place = found.end()
    if not entries:
        raise ValueError("it has no predictions")
    if len({matrix.shape for matrix, _, _ in entries}) > 1:
        raise ValueError("its matrices are not all of one size")
    return entries


def solutions(sequences: list[list[str]], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """(N, *shape) what sequences of tokens say, NaN for what does not decode or has another shape."""
    words = word_ids(name)
    writer = TokenWriter(words, shape, name, width=1)
    padded = [[words.get(token, words["<pad>"]) for token in row] + [END] * writer.length for row in sequences]
    ids = writer.solution(torch.tensor([row[: writer.length] for row in padded]), writer.numbers)
    return writer.encoding.decode(ids.numpy()).reshape(-1, *shape)


def import_predictions(path: Path, name: str) -> Path:
    """Make stored answers, called `name`, of predictions in the text form of the official evaluator.

    FileError for a damaged file, naming the line, or for a name that is taken.
    """
    place = imported_path(name)
    if (RUNS / name).exists():
        raise FileError(f"{name} is a run of data/runs: choose another --name")
    try:
        entries = read_entries(path.read_text(encoding="utf-8"))
        inputs, target = np.stack([matrix for matrix, _, _ in entries]), entries[0][1]
        n = inputs.shape[-1]
        shapes = {task: get_task(task).target_shape(n) for task in OPERATIONS.values()}
        tasks = [task for task, shape in shapes.items() if target[:2] == [f"V{k}" for k in (*shape, 1)[:2]]]
        styles = [style for style in ENCODINGS.values() if set(target[2:]) <= set(encoding(style).vocabulary)]
        if not tasks or not styles:
            raise ValueError(f"no task of {n}x{n} matrices has the target {' '.join(target)[:60]}")
        task, style = tasks[0], styles[0]
        targets, predictions = (solutions([entry[k] for entry in entries], style, shapes[task]) for k in (1, 2))
        if (missing := np.isnan(targets).reshape(len(targets), -1).any(1)).any():
            raise ValueError(f"prediction {int(missing.argmax())} has a target that does not decode")
    except (OSError, ValueError) as error:
        raise FileError(f"{path} cannot be read as predictions: {error}") from None
    if place.exists():
        raise FileError(f"{place} exists: choose another --name")
    table = {**columns("input", inputs), **columns("target", targets), **columns("prediction", predictions)}
    store(place, table, {"task": task, "size": str(n), "source": path.name})
    return place
