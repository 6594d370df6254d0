"""The command line: `python -m mathtransformer train|predict|track|bench|list ...`; `--help` says the rest."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import fields
from pathlib import Path

from .config import PRESETS, REPEATED, Config, ModelOptions, TrainOptions, get_preset
from .problems import ENTRIES, SPECTRA
from .runs import RUNS, find, load_run, write_atomically


def add_options(parser: argparse.ArgumentParser) -> None:
    """One flag for every field of the two option classes, with the type of its default."""
    for kind, title in ((ModelOptions, "the model"), (TrainOptions, "the optimisation")):
        group = parser.add_argument_group(f"options of {title} (default: the preset's)")
        for option in fields(kind):
            flag = f"--{option.name.replace('_', '-')}"
            if isinstance(option.default, bool):
                group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None)
            else:
                group.add_argument(flag, type=type(option.default), default=None, metavar=type(option.default).__name__)


def add_training(parser: argparse.ArgumentParser) -> None:
    """What says which training to do, and how."""
    parser.add_argument("preset", help="one of `list`, or any TASK-NxN[-SPECTRUM][-paper], for an hour by default")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--entries", choices=ENTRIES, help="distribution of the matrix entries")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="budget in minutes of training")
    budget.add_argument("--examples", type=int, help="budget in examples")
    parser.add_argument("--start", metavar="RUN", help="begin with the weights of this run, of any size")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="CPU threads (two trainings of one thread beat one of two)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="use torch.compile")
    add_options(parser)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m mathtransformer", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train one preset into data/runs")
    add_training(train)
    train.add_argument("--out", type=Path, help="the run's folder (default: data/runs/PRESET, or PRESET-seedN)")
    again = train.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue what was begun, if anything")
    again.add_argument("--extend", action="store_true", help="the same; if that is finished, train one more leg")
    again.add_argument("--force", action="store_true", help="train anew, over what is there")
    track = commands.add_parser("track", help="train, judge, and add a row to data/results/recipe_track.csv")
    add_training(track)
    predict = commands.add_parser(
        "predict", help="solve fresh problems with the runs of data/runs, and store the answers"
    )
    predict.add_argument("run", nargs="*", help="names (default: all that lack current predictions)")
    bench = commands.add_parser("bench", help="measure this machine")
    bench.add_argument("--seconds", type=float, default=2.0, help="time for each measurement")
    bench.add_argument("--threads", type=int, default=1)
    bench.add_argument("--out", type=Path, default=RUNS.parent / "results" / "bench.csv")
    listing = commands.add_parser("list", help="list the presets")
    listing.add_argument(
        "--runs", action="store_true", help="the arguments of every training in data/runs, a line each"
    )
    return top


def configure(arguments: argparse.Namespace) -> Config:
    names = [
        "seed",
        "entries",
        "start",
        "minutes",
        "examples",
        *(f.name for f in fields(ModelOptions)),
        *(f.name for f in fields(TrainOptions)),
    ]
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return get_preset(arguments.preset).changed(**given)


def how(arguments: argparse.Namespace) -> dict:
    names = {"device": arguments.device, "threads": arguments.threads, "compiled": arguments.compile}
    return {**names, "show": sys.stderr.isatty()}


def run_training(arguments: argparse.Namespace) -> int:
    from .training import train  # here, so that `list` and errors need not wait for the compiler's imports

    config = configure(arguments)
    folder = arguments.out or RUNS / (config.name if config.seed == 0 else f"{config.name}-seed{config.seed}")
    again = {"resume": arguments.resume, "extend": arguments.extend, "force": arguments.force}
    return train(config, folder, **again, **how(arguments))


def run_track(arguments: argparse.Namespace) -> int:
    from . import track

    row = track.measure(configure(arguments), **how(arguments))
    track.add(row)
    print(" ".join(f"{name}={value}" for name, value in row.items()))
    return 0


def run_predictions(arguments: argparse.Namespace) -> int:
    """Eigenvalue runs are tested on every spectrum; seed 0 of the other tasks on 50,000 problems as in the paper."""
    from .predictions import is_current, predict

    for folder in [find(name) for name in arguments.run] or sorted(path.parent for path in RUNS.glob("*/run.json")):
        run = load_run(folder)
        eigenvalues = run.config.task == "eigenvalues"
        n = 10_000 if eigenvalues or run.config.seed else 50_000
        for spectrum in SPECTRA if eigenvalues else [run.config.spectrum]:
            if arguments.run or not is_current(folder, spectrum, n):
                print(predict(run, n, spectrum), flush=True)
    return 0


def run_bench(arguments: argparse.Namespace) -> int:
    import torch

    from .bench import bench

    if arguments.threads < 1:
        raise ValueError(f"threads must be at least 1, got {arguments.threads}")
    torch.set_num_threads(arguments.threads)
    table = bench(arguments.seconds)
    write_atomically(arguments.out, table.to_csv(index=False).encode())
    return 0


def run_listing(arguments: argparse.Namespace) -> int:
    for name, config in PRESETS.items():
        if arguments.runs:
            print("\n".join([name, *(f"{name} --seed {seed}" for seed in (1, 2) if name in REPEATED)]))
        else:
            budget = f"{config.examples:,} examples" if config.examples else f"{config.minutes:g} minutes"
            print(f"{name:28} {config.recipe:6} {budget}")
    return 0


def main() -> int:
    arguments = parser().parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    commands = {"train": run_training, "predict": run_predictions, "track": run_track}
    commands |= {"bench": run_bench, "list": run_listing}
    try:
        return commands[arguments.command](arguments)
    except (ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


if __name__ == "__main__":
    sys.exit(main())
