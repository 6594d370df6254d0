"""The recipe track: one problem and one budget, one option changed, judged at the end of the decay.

Each training is thrown away and leaves one row in data/results/recipe_track.csv. Train the same change with several
seeds, and the unchanged recipe beside it on the same machine, before believing that the change pays.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import pandas as pd
import torch

from .. import files
from ..evaluation.answers import judge, test_set
from ..evaluation.metrics import within
from ..interrupts import Interrupted
from ..paths import RESULTS
from ..training.begin import train
from ..training.config import Config
from ..training.runs import load_run

TRACK = RESULTS / "recipe_track.csv"
PROBLEMS = 5000
TOLERANCES = (0.01, 0.05, 0.25)


def changes(config: Config, recipe: str = "fast") -> str:
    """What differs from the recipe's defaults, such as "beta2=0.98 clip=5.0"; empty for the recipe itself.

    The problem, the seed and the budget are no changes. Normal entries are.
    """
    default = Config.of(config.task, config.size, recipe=recipe, spectrum=config.spectrum, seed=config.seed)
    old, new = ({**one.flat(), **vars(one.phases[0])} for one in (default, config))
    budget = ("phases", "examples", "minutes")
    given = [f"{name}={value}" for name, value in new.items() if name not in budget and old[name] != value]
    return " ".join(given + ([f"phases={len(config.phases)}"] if len(config.phases) > 1 else []))


def measure(name: str, config: Config, recipe: str = "fast", **options) -> dict:
    """Train and judge on fresh problems: one row of the track, under `name`. `options` go to `training.begin.train`.

    within_: shares of all answers, by tolerance. wrong_: shares of those that are wrong at 5 % which keep a property
    within 5 %; NaN, in the table empty, if none is wrong. Raises Interrupted if a signal cuts the training short.
    """
    with tempfile.TemporaryDirectory() as folder:
        if status := train(config, folder, **options):
            raise Interrupted(status - 128)
        run = load_run(folder)
    problems = test_set(run.model.task, config.size, PROBLEMS, config.spectrum, config.entries)
    judged = judge(run.model, *problems)
    table, kept = within(judged, ["error"], TOLERANCES), within(judged[~(judged.error < 0.05)], tolerances=(0.05,))
    row = {"preset": name, "changes": changes(config, recipe), "seed": config.seed}
    row |= {"minutes": sum(phase.minutes or 0 for phase in config.phases) or None}
    row |= {"examples": run.info["examples"], "seconds": run.info["seconds"], "threads": torch.get_num_threads()}
    row |= {"parameters": run.info["parameters"], "loss": run.info["last"]["loss"], "n": PROBLEMS}
    row |= {f"within_{100 * share.tolerance:g}%": share.proportion for share in table.itertuples()}
    kept = kept[kept.property != "error"]
    return row | {f"wrong_{share.property}": round(share.proportion, 6) for share in kept.itertuples()}


def add(row: dict, path: Path = TRACK) -> None:
    """Append a row, whatever other processes are doing. OSError on a disk that cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.lock(path.parent, wait=True):
        rows = pd.read_csv(path, keep_default_na=False) if path.exists() else pd.DataFrame()
        buffer = io.StringIO()
        pd.concat([rows, pd.DataFrame([row])]).to_csv(buffer, index=False, float_format="%.6g")
        files.write({path: buffer.getvalue().encode()})
