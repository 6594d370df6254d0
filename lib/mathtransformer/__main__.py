"""The command line: `python -m mathtransformer train|queue|predict|track|bench|list ...`; `--help` says the rest."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import math
import os
import shlex
import sys
from dataclasses import fields
from pathlib import Path

from .config import LEGS, PRESETS, Config, ModelOptions, TrainOptions, get_preset, run_name
from .problems import ENTRIES, SPECTRA, whole_number
from .processes import MAX_THREADS
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


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """In one line, also where an argument has a line break in it."""
        super().error(" ".join(message.splitlines()))


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="python -m mathtransformer", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train one preset into data/runs")
    add_training(train)
    train.add_argument("--out", type=Path, help="the run's folder (default: data/runs/PRESET, or PRESET-seedN)")
    again = train.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue what was begun, if anything")
    again.add_argument("--extend", action="store_true", help="the same; if that is finished, train one more leg")
    again.add_argument("--force", action="store_true", help="train anew, over what is there")
    train.add_argument("--save-every", type=float, default=60, metavar="SECONDS", help="between two checkpoints")
    train.add_argument("--bar", action=argparse.BooleanOptionalAction, help="progress bar (default: on a terminal)")
    add_queue(commands.add_parser("queue", help="train many, some at a time, here or on a Slurm cluster"))
    track = commands.add_parser("track", help="train, judge, and add a row to data/results/recipe_track.csv")
    add_training(track)
    track.add_argument("--legs", type=int, default=1, help="train the budget in so many legs, each with its own decay")
    predict = commands.add_parser(
        "predict", help="solve fresh problems with the runs of data/runs, and store the answers"
    )
    predict.add_argument("run", nargs="*", help="names (default: all that lack current predictions)")
    bench = commands.add_parser("bench", help="measure this machine")
    bench.add_argument("--seconds", type=float, default=2.0, help="time for each measurement")
    bench.add_argument("--threads", type=int, default=1)
    bench.add_argument("--out", type=Path, default=RUNS.parent / "results" / "bench.csv")
    commands.add_parser("list", help="list the presets")
    return top


def add_queue(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="*", help="PRESET or PRESET:SEED (default: all of data/runs but the long ones)")
    parser.add_argument("--at-once", type=int, default=2, help="how many trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    parser.add_argument("--leg", type=float, metavar="MINUTES", help="longest turn of a preset trained in legs")
    parser.add_argument("--out", type=Path, default=RUNS, help="the folder of the runs")
    parser.add_argument("--options", default="", help="more options of train, in one string")
    parser.add_argument("--slurm", metavar="FOLDER", type=Path, help="submit to Slurm instead; output goes to FOLDER")
    parser.add_argument("--partition", help="Slurm's partition")
    parser.add_argument("--gpus", type=int, help="GPUs of each on Slurm (default: none)")
    parser.add_argument("--hours", type=float, default=24, help="Slurm's time limit; then a job is queued again")


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
    if arguments.start is not None:
        check_run("start", arguments.start)
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return get_preset(arguments.preset).changed(**given)


def check_path(option: str, path: Path | None, file: bool) -> None:
    """ValueError for a path where no folder, or no file, can be made."""
    try:
        if path is None:
            return
        if path == Path():  # what an empty word becomes
            raise ValueError("a name is needed")
        os.lstat(path)
        if path.is_dir() == file:
            raise ValueError(f"{path} is {'a folder' if file else 'no folder'}")
    except FileNotFoundError:
        if file and not path.parent.is_dir():
            raise ValueError(f"--{option}: {path.parent} is no folder") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"--{option}: {getattr(error, 'strerror', None) or error}") from None


def check_run(option: str, name: str) -> None:
    try:
        find(name or "''")
    except ValueError as error:
        raise ValueError(f"--{option}: {error}") from None


def check_options(preset: str, options: str) -> None:
    """ValueError if `train PRESET OPTIONS` would be refused."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            configure(parser().parse_args(["train", preset, *shlex.split(options)]))
    except (SystemExit, ValueError) as error:
        reason = error if isinstance(error, ValueError) else "`train` has no such option or value"
        raise ValueError(f"--options {options!r:.80}: {reason}") from None


def how(arguments: argparse.Namespace) -> dict:
    names = {"device": arguments.device, "threads": arguments.threads, "compiled": arguments.compile}
    bar = getattr(arguments, "bar", None)
    return {**names, "show": sys.stderr.isatty() if bar is None else bar}


def run_training(arguments: argparse.Namespace) -> int:
    from .training import next_leg, train  # here, so that `list` and errors need not wait for the compiler's imports

    config = configure(arguments)
    folder = arguments.out or RUNS / run_name(config.name, config.seed)
    again = {"resume": arguments.resume, "extend": arguments.extend, "force": arguments.force}
    if config.name in LEGS and not arguments.force:
        again["extend"] = True
        leg = next_leg(config, folder, [name for name, value in vars(arguments).items() if value is not None])
        if leg is None:
            print(f"{folder} has had its {config.examples:,} examples: --minutes or --examples adds a leg")
            return 0
        config = leg
    return train(config, folder, **again, **how(arguments), save_every=arguments.save_every)


def run_track(arguments: argparse.Namespace) -> int:
    from . import track

    row = track.measure(configure(arguments), arguments.legs, **how(arguments))
    track.add(row)
    print(" ".join(f"{name}={value}" for name, value in row.items()))
    return 0


def run_predictions(arguments: argparse.Namespace) -> int:
    """The runs whose failures notebooks 01 and 02 study are tested on 50,000 problems as in the paper, all others on
    10,000, those of eigenvalues on every spectrum."""
    from .predictions import is_current, predict

    studied = ("eigenvectors-3x3", "eigenvectors-3x3-half", "inversion-2x2", "inversion-3x3")
    for folder in [find(name) for name in arguments.run] or sorted(path.parent for path in RUNS.glob("*/run.json")):
        run = load_run(folder)
        eigenvalues = run.config.task == "eigenvalues"
        n = 50_000 if run.name in studied else 10_000
        for spectrum in SPECTRA if eigenvalues else [run.config.spectrum]:
            if arguments.run or not is_current(folder, spectrum, n):
                print(predict(run, n, spectrum), flush=True)
    return 0


def run_bench(arguments: argparse.Namespace) -> int:
    import torch

    from .bench import bench

    whole_number("threads", arguments.threads, 1, MAX_THREADS)
    if not 0 < arguments.seconds < math.inf:
        raise ValueError(f"seconds must be positive and finite, got {arguments.seconds}")
    torch.set_num_threads(arguments.threads)
    table = bench(arguments.seconds)
    write_atomically(arguments.out, table.to_csv(index=False).encode())
    return 0


def run_queue(arguments: argparse.Namespace) -> int:
    from . import jobs

    for name in ("threads", "gpus"):
        whole_number(name, getattr(arguments, name) or 0, 0 if name == "gpus" else 1, MAX_THREADS)
    for name in ("at_once", "leg", "hours"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name.replace('_', '-')} must be positive and finite, got {value}")
    settings = {"folder": arguments.out, "threads": arguments.threads, "leg": arguments.leg}
    names = arguments.name or jobs.default_names()
    queue = [jobs.Job.named(name, **settings, options=arguments.options) for name in names]
    for job in queue:
        check_options(job.preset, arguments.options)
    if arguments.slurm is None:
        return jobs.run_here(queue, arguments.at_once)
    wanted = {"slurm_partition": arguments.partition, "gpus_per_node": arguments.gpus}
    wanted = {name: value for name, value in wanted.items() if value}
    for job in jobs.submit(queue, arguments.slurm, hours=arguments.hours, **wanted):
        print(job.job_id)
    return 0


def run_listing(arguments: argparse.Namespace) -> int:
    for name, config in PRESETS.items():
        budget = f"{config.examples:,} examples" if config.examples else f"{config.minutes:g} minutes"
        print(f"{name:28} {config.recipe:6} {budget}{' in legs' if name in LEGS else ''}")
    return 0


def main() -> int:
    arguments = parser().parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    commands = {"train": run_training, "predict": run_predictions, "track": run_track, "queue": run_queue}
    commands |= {"bench": run_bench, "list": run_listing}
    try:
        for option in ("out", "slurm"):
            check_path(option, getattr(arguments, option, None), file=arguments.command == "bench")
        return commands[arguments.command](arguments)
    except (ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


if __name__ == "__main__":
    sys.exit(main())
