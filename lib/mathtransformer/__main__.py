"""The command line: `python -m mathtransformer train|queue|predict|track|bench|list ...`; `--help` says the rest."""

from __future__ import annotations

from . import interrupts

if __name__ == "__main__":
    interrupts.leave_at_once()  # before the imports that take seconds

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

from .checks import choose, whole_number
from .data.matrices import ENTRIES, SPECTRA
from .data.tasks import TASKS
from .model.options import PAPER, ModelOptions
from .paths import RUNS
from .training.config import RECIPES, Config, Phase, TrainOptions
from .training.presets import PRESETS, Preset, get_preset, preset_of_run, run_name

MAX_THREADS = 4096  # more is a slip


def add_options(parser: argparse.ArgumentParser) -> None:
    """One flag for every field of the option classes, with the type of its default."""
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="budget in minutes of training")
    budget.add_argument("--examples", type=int, help="budget in examples")
    kinds = ((ModelOptions, "the model"), (TrainOptions, "the optimisation"), (Phase, "the schedule"))
    for kind, title in kinds:
        group = parser.add_argument_group(f"options of {title} (default: the preset's or the recipe's)")
        for option in fields(kind):
            flag = f"--{option.name.replace('_', '-')}"
            if isinstance(option.default, bool):
                group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None)
            elif option.default is not None:
                group.add_argument(flag, type=type(option.default), default=None, metavar=type(option.default).__name__)
    example = "minutes=45,batch=256"
    group.add_argument("--phase", action="append", type=phase, metavar="OPTIONS", help=f"such as {example}; repeatable")


def phase(text: str) -> dict:
    """ "minutes=45,batch=256" -> {"minutes": 45.0, "batch": 256}; ValueError for others."""
    types = {"examples": int, "minutes": float, "batch": int, "learning_rate": float, "decay": float}
    words = {name.strip().replace("-", "_"): value for name, value in (word.split("=") for word in text.split(","))}
    choose("option of a phase", next((name for name in words if name not in types), "batch"), types)
    return {name: types[name](value) for name, value in words.items()}


def add_training(parser: argparse.ArgumentParser) -> None:
    """What says which training to do, and how."""
    parser.add_argument("preset", nargs="?", help="one of `list`; or else give --task and --size")
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--size", type=int, help="of the matrices")
    parser.add_argument("--spectrum", choices=SPECTRA, help="of symmetric matrices (default: semicircle)")
    parser.add_argument("--recipe", choices=RECIPES, help="default: fast")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--entries", choices=ENTRIES, help="distribution of the matrix entries")
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
    train = commands.add_parser("train", help="train a model, going on with what was begun in its folder")
    add_training(train)
    train.add_argument("--out", type=Path, help="the run's folder (default for a preset: data/runs/PRESET[-seedN])")
    train.add_argument("--force", action="store_true", help="train anew, over what is there")
    train.add_argument("--save-every", type=float, default=60, metavar="SECONDS", help="between two checkpoints")
    train.add_argument("--bar", action=argparse.BooleanOptionalAction, help="progress bar (default: on a terminal)")
    add_queue(commands.add_parser("queue", help="train many, some at a time, here or on a Slurm cluster"))
    track = commands.add_parser("track", help="train, judge, and add a row to data/results/recipe_track.csv")
    add_training(track)
    predict = commands.add_parser("predict", help="solve fresh problems with runs, and store the answers")
    predict.add_argument("run", nargs="*", help="names or folders (default: all that lack current answers)")
    predict.add_argument("--spectrum", choices=SPECTRA, help="of the problems (default: the preset's, or the run's)")
    predict.add_argument("--problems", type=int, help="how many (default: the preset's, or 10,000)")
    bench = commands.add_parser("bench", help="measure this machine")
    bench.add_argument("--seconds", type=float, default=2.0, help="time for each measurement")
    bench.add_argument("--threads", type=int, default=1)
    bench.add_argument("--out", type=Path, help="a csv file to write the table to, besides printing it")
    commands.add_parser("list", help="list the presets")
    return top


def add_queue(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Options after a lone -- are those of train, such as: queue eigenvalues-3x3-laplace:1 -- --width 64"
    )
    parser.add_argument("name", nargs="*", help="PRESET or PRESET:SEED (default: all of data/runs)")
    parser.add_argument("--at-once", type=int, default=2, help="how many trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    parser.add_argument("--out", type=Path, default=RUNS, help="the folder of the runs")
    parser.add_argument("--slurm", metavar="FOLDER", type=Path, help="submit to Slurm instead; output goes to FOLDER")
    parser.add_argument("--partition", help="Slurm's partition")
    parser.add_argument("--gpus", type=int, help="GPUs of each on Slurm (default: none)")
    parser.add_argument("--hours", type=float, default=24, help="Slurm's time limit; then a job is queued again")


def configure(arguments: argparse.Namespace) -> Config:
    """The training that was asked for. ValueError, TypeError or FileError, naming what is wrong."""
    from .training.runs import find

    if arguments.start is not None:
        find(arguments.start or "''")
    where = {name: getattr(arguments, name) for name in ("task", "size", "spectrum", "recipe")}
    names = {field.name for kind in (ModelOptions, TrainOptions, Phase) for field in fields(kind)}
    names |= {"seed", "entries", "start"}
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name, None) is not None}
    if arguments.phase and set(given) & {field.name for field in fields(Phase)}:
        raise ValueError("--phase says what --examples, --minutes, --batch, --learning-rate and --decay would say")
    if arguments.phase:
        given["phases"] = tuple(Phase(**values) for values in arguments.phase)
    if arguments.preset is not None:
        if extra := [f"--{name}" for name, value in where.items() if value is not None]:
            raise ValueError(f"{arguments.preset} says what {', '.join(extra)} would say: leave one of them out")
        return get_preset(arguments.preset).config.changed(**given)
    if arguments.task is None or arguments.size is None:
        raise ValueError("say what to train: a preset (see `list`), or --task and --size")
    asked = {name: value for name, value in where.items() if value is not None}
    return Config.of(**asked).changed(**given)


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


def how(arguments: argparse.Namespace) -> dict:
    names = {"device": arguments.device, "threads": arguments.threads, "compiled": arguments.compile}
    bar = getattr(arguments, "bar", None)
    return {**names, "show": sys.stderr.isatty() if bar is None else bar}


def run_training(arguments: argparse.Namespace) -> int:
    config = configure(arguments)
    if arguments.out is None and arguments.preset is None:
        raise ValueError("say with --out where the run is to be")
    from .training.begin import train  # here, so that `list` and errors need not wait for the compiler's imports

    folder = arguments.out or RUNS / run_name(arguments.preset, config.seed)
    return train(config, folder, force=arguments.force, **how(arguments), save_every=arguments.save_every)


def run_track(arguments: argparse.Namespace) -> int:
    config = configure(arguments)
    from .tools import track

    name = arguments.preset or "-".join([config.task, f"{config.size}x{config.size}", config.spectrum])
    recipe = arguments.recipe or ("paper" if config.model == PAPER else "fast")
    row = track.measure(name, config, recipe, **how(arguments))
    print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)  # first: the disk may be full
    track.add(row)
    return 0


def run_predictions(arguments: argparse.Namespace) -> int:
    from .analysis.predictions import is_current, predict
    from .training.runs import find, load_run

    if arguments.problems is not None:
        whole_number("problems", arguments.problems, 1, 1_000_000)
    for folder in [find(name) for name in arguments.run] or sorted(path.parent for path in RUNS.glob("*/run.json")):
        run = load_run(folder)
        known = preset_of_run(run.name) if folder.parent == RUNS else None
        preset, seed = known or (Preset(run.config, tested=(run.config.spectrum,)), 0)
        n = arguments.problems or preset.problems_for(seed)
        for spectrum in [arguments.spectrum] if arguments.spectrum else preset.tested:
            if arguments.run or not is_current(folder, spectrum, n):
                print(predict(run, n, spectrum), flush=True)
    return 0


def run_bench(arguments: argparse.Namespace) -> int:
    whole_number("threads", arguments.threads, 1, MAX_THREADS)
    if not 0 < arguments.seconds < math.inf:
        raise ValueError(f"seconds must be positive and finite, got {arguments.seconds}")
    import torch

    from . import files
    from .tools.bench import bench

    torch.set_num_threads(arguments.threads)
    table = bench(arguments.seconds)
    if arguments.out:
        files.write({arguments.out: table.to_csv(index=False).encode()})
    return 0


def run_queue(arguments: argparse.Namespace) -> int:
    from .tools import queue

    for name in ("at_once", "threads", "gpus"):
        whole_number(name.replace("_", "-"), getattr(arguments, name) or 0, 0 if name == "gpus" else 1, MAX_THREADS)
    if not 0 < arguments.hours < math.inf:
        raise ValueError(f"hours must be positive and finite, got {arguments.hours}")
    settings = {"folder": arguments.out, "threads": arguments.threads, "options": tuple(arguments.options)}
    names = arguments.name or queue.default_names()
    jobs = {}
    for job in (queue.Job.named(name, **settings) for name in names):
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                jobs[job] = configure(parser().parse_args(job.train_words()))
        except SystemExit:
            raise ValueError(f"`train` has no such option or value: {shlex.join(arguments.options)}") from None
    if arguments.slurm is None:
        return queue.run_here(jobs, arguments.at_once)
    wanted = {"slurm_partition": arguments.partition, "gpus_per_node": arguments.gpus}
    wanted = {name: value for name, value in wanted.items() if value}
    for job in queue.submit(jobs, arguments.slurm, hours=arguments.hours, **wanted):
        print(job.job_id)
    return 0


def run_listing(arguments: argparse.Namespace) -> int:
    for name, preset in PRESETS.items():
        seeds = f"seeds {', '.join(map(str, preset.seeds))}"
        print(f"{name:28} {seeds:13} {'; '.join(map(str, preset.config.phases))}")
    return 0


COMMANDS = {
    "train": run_training,
    "predict": run_predictions,
    "track": run_track,
    "queue": run_queue,
    "bench": run_bench,
    "list": run_listing,
}


def main(words: list[str] | None = None) -> int:
    """Run a command. Returns 0, 1 for what failed, 2 for what cannot be done as asked, 128 + a signal's number."""
    words = sys.argv[1:] if words is None else words
    passed: list[str] = []
    if words[:1] == ["queue"] and "--" in words:
        words, passed = words[: words.index("--")], words[words.index("--") + 1 :]
    arguments = parser().parse_args(words)
    arguments.options = passed
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    interrupts.raise_interrupted()
    try:
        for option in ("out", "slurm"):
            check_path(option, getattr(arguments, option, None), file=arguments.command == "bench")
        return COMMANDS[arguments.command](arguments)
    except (ValueError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (FloatingPointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except interrupts.Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.status


if __name__ == "__main__":
    sys.exit(main())
