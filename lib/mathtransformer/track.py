"""The recipe track: a fixed task and a fixed time, one lever changed, judged at the end of the decay.

Each training is thrown away and leaves one row in data/results/recipe_track.csv. Run the same lever with several seeds,
and the unchanged recipe beside it on the same machine, before believing that the lever pays.
"""

from __future__ import annotations

import io
import math
import tempfile
from pathlib import Path

import pandas as pd
import torch

from .config import RECIPES, Config
from .evaluation import judge, test_set
from .metrics import within
from .problems import whole_number
from .runs import RUNS, load_run, lock, write_atomically
from .training import train

TRACK = RUNS.parent / "results" / "recipe_track.csv"
PROBLEMS = 5000
TOLERANCES = (0.01, 0.05, 0.25)


def lever(config: Config) -> str:
    """What differs from the recipe's defaults, such as "beta2=0.98 clip=5.0"; empty for the recipe itself."""
    model, training = RECIPES[config.recipe]
    defaults = {**vars(model), **vars(training)}
    options = config.flat()
    changes = [f"{name}={options[name]}" for name, value in defaults.items() if options[name] != value]
    return " ".join(changes + ([f"start={config.start}"] if config.start else []))


def measure(config: Config, legs: int = 1, **options) -> dict:
    """Train and judge on fresh problems: one row of the track. `options` go to `training.train`.

    legs: how many trainings share the budget, each from the weights of the one before, with a new warm-up and decay.
    """
    whole_number("legs", legs, 1, 100)
    minutes, examples = config.minutes, config.examples
    leg = config.changed(minutes=minutes and minutes / legs, examples=examples and math.ceil(examples / legs))
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(legs):
            if status := train(leg, folder, extend=True, **options):
                raise KeyboardInterrupt(f"cut short with status {status}")
        run = load_run(folder)
    table = within(judge(run.model, config.task, *test_set(config, PROBLEMS)), ["error"], TOLERANCES)
    levers = " ".join(filter(None, [lever(config), f"legs={legs}" if legs > 1 else ""]))
    row = {"preset": config.name, "lever": levers, "seed": config.seed, "minutes": config.minutes}
    row |= {"examples": run.info["examples"], "seconds": run.info["seconds"], "threads": torch.get_num_threads()}
    row |= {"parameters": run.info["parameters"], "loss": run.info["last"]["loss"], "n": PROBLEMS}
    for share in table.itertuples():
        row[f"within_{100 * share.tolerance:g}%"] = share.proportion
    return row


def add(row: dict, path: Path = TRACK) -> None:
    """Append a row, whatever other processes are doing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path.parent, wait=True):
        rows = pd.read_csv(path, keep_default_na=False) if path.exists() else pd.DataFrame()
        buffer = io.StringIO()
        pd.concat([rows, pd.DataFrame([row])]).to_csv(buffer, index=False, float_format="%.6g")
        write_atomically(path, buffer.getvalue().encode())
