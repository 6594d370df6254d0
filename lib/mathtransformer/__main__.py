"""The command line: `python -m mathtransformer train|queue|predict|track|bench|list ...`; `--help` says the rest."""

from __future__ import annotations

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback from the imports, which take seconds

import argparse
import logging
import math
import os
import sys
from dataclasses import fields
from pathlib import Path

from . import interrupts
from .data.matrices import ENTRIES, SPECTRA
from .data.tasks import TASKS
from .model.options import ModelOptions
from .paths import RUNS
from .training.config import RECIPES, Config, Phase, TrainOptions
from .training.presets import PRESETS, Preset, get_preset, preset_of_run, run_name

# The modules that need PyTorch are imported where they are used, so that `list` and errors need not wait for it.

OPTIONS = {"the model": ModelOptions, "the optimisation": TrainOptions, "the schedule": Phase}
NAMES = {field.name for kind in OPTIONS.values() for field in fields(kind)} | {"seed", "entries", "start", "phases"}
PROBLEM = ("task", "size", "spectrum", "recipe")
HOW = ("device", "threads", "compiled", "show")


def count(text: str) -> int:
    """The type of an option that counts. argparse makes one line of its ValueError, as of those below."""
    if not 1 <= int(text) <= 1_000_000:  # more is a slip
        raise ValueError
    return int(text)


def duration(text: str) -> float:
    """The type of an option in seconds or hours."""
    if not 0 < float(text) < math.inf:
        raise ValueError
    return float(text)


def folder(text: str) -> Path:
    """The type of an option that names a folder, which need not exist."""
    try:
        os.scandir(text).close()
    except FileNotFoundError:
        if not text:
            raise ValueError from None
    except OSError as error:  # a file, or a name that cannot be
        raise argparse.ArgumentTypeError(error.strerror) from None
    return Path(text)


def existing(text: str) -> Path:
    """The type of an argument that names a file which is there."""
    if not os.path.isfile(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no file")
    return Path(text)


def phase(text: str) -> Phase:
    """The type of the option --phase, such as "minutes=45,batch=256"."""
    types = {"examples": int, "minutes": float, "batch": int, "learning_rate": float, "decay": float}
    words = {name.strip().replace("-", "_"): value for name, value in (word.split("=") for word in text.split(","))}
    return Phase(**{name: types.get(name, str)(value) for name, value in words.items()})


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """In one line, also where an argument has a line break in it."""
        super().error(" ".join(message.splitlines()))


def add_training(parser: argparse.ArgumentParser) -> None:
    """What says which training to do, and how: one flag for every field of the option classes, among others."""
    parser.add_argument("preset", nargs="?", help="one of `list`; or else give --task and --size")
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--size", type=int, help="of the matrices")
    parser.add_argument("--spectrum", choices=SPECTRA, help="of symmetric matrices (default: semicircle)")
    parser.add_argument("--recipe", choices=RECIPES, help="default: fast")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--entries", choices=ENTRIES, help="distribution of the matrix entries")
    parser.add_argument("--start", metavar="RUN", help="begin with the weights of this run, of any size")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=count, help="CPU threads (two trainings of one thread beat one of two)")
    switch = {"action": argparse.BooleanOptionalAction}
    parser.add_argument("--compile", dest="compiled", default=True, help="use torch.compile", **switch)
    parser.add_argument("--bar", dest="show", default=sys.stderr.isatty(), help="show a progress bar", **switch)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="budget in minutes of training")
    budget.add_argument("--examples", type=int, help="budget in examples")
    for title, kind in OPTIONS.items():
        group = parser.add_argument_group(f"options of {title} (default: the preset's or the recipe's)")
        for option in fields(kind):
            flag, of = f"--{option.name.replace('_', '-')}", type(option.default)
            if of is bool:
                group.add_argument(flag, default=None, **switch)
            elif option.default is not None:
                group.add_argument(flag, type=of, metavar=of.__name__)
    group.add_argument("--phase", dest="phases", action="append", type=phase, help="as minutes=9,batch=256")


def add_queue(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Options after a lone -- are those of train, such as: queue eigenvalues-3x3-laplace:1 -- --width 64"
    )
    parser.add_argument("name", nargs="*", help="PRESET or PRESET:SEED (default: all of data/runs)")
    parser.add_argument("--at-once", type=count, default=2, help="how many trainings at a time")
    parser.add_argument("--threads", type=count, default=1, help="CPU threads of each")
    parser.add_argument("--out", type=folder, default=RUNS, help="the folder of the runs")
    parser.add_argument("--slurm", metavar="FOLDER", type=folder, help="submit to Slurm instead; output goes to FOLDER")
    parser.add_argument("--partition", help="Slurm's partition")
    parser.add_argument("--gpus", type=count, help="GPUs of each on Slurm (default: none)")
    parser.add_argument("--hours", type=duration, default=24, help="Slurm's time limit; then a job is queued again")


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="python -m mathtransformer", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    def add(name: str, run, about: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about)
        command.set_defaults(do=run)
        return command

    train = add("train", run_training, "train a model, going on with what was begun in its folder")
    add_training(train)
    train.add_argument("--out", type=folder, help="the run's folder (default for a preset: data/runs/PRESET[-seedN])")
    train.add_argument("--force", action="store_true", help="train anew, over what is there")
    train.add_argument("--save-every", type=float, default=60, metavar="SECONDS", help="between two checkpoints")
    add_queue(add("queue", run_queue, "train many, some at a time, here or on a Slurm cluster"))
    add_training(add("track", run_track, "train, judge, and add a row to data/results/recipe_track.csv"))
    predict = add("predict", run_predictions, "solve fresh problems with runs, and store the answers")
    predict.add_argument("run", nargs="*", help="names or folders (default: all that lack current answers)")
    predict.add_argument("--spectrum", choices=SPECTRA, help="of the problems (default: the preset's, or the run's)")
    predict.add_argument("--problems", type=count, help="how many (default: the preset's, or 10,000)")
    bench = add("bench", run_bench, "measure this machine")
    bench.add_argument("--seconds", type=duration, default=2.0, help="time for each measurement")
    bench.add_argument("--threads", type=count, default=1)
    bench.add_argument("--csv", action="store_true", help="print the table as csv, too")
    take = add("import", run_import, "take over a released model, or released predictions")
    take.add_argument("file", type=existing, help="MODEL.pth with --out, PREDICTIONS.pred with --name")
    what = take.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=folder, help="the folder of the run that the model becomes")
    what.add_argument("--name", help="what the predictions are called in data/predictions")
    add("list", run_listing, "list the presets")
    return top


def configure(arguments: argparse.Namespace) -> Config:
    """The training that was asked for. ValueError or TypeError, naming what is wrong."""
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    problem = {name: given[name] for name in PROBLEM if name in given}
    options = {name: given[name] for name in NAMES if name in given}
    if "phases" in options:
        if options.keys() & {field.name for field in fields(Phase)}:
            raise ValueError("--phase says what --examples, --minutes, --batch, --learning-rate and --decay would say")
        options["phases"] = tuple(options["phases"])
    if "preset" in given:
        if problem:
            raise ValueError(f"{arguments.preset} says what --{', --'.join(problem)} would say: leave one of them out")
        return get_preset(arguments.preset).config.changed(**options)
    if not {"task", "size"} <= problem.keys():
        raise ValueError("say what to train: a preset (see `list`), or --task and --size")
    return Config.of(**problem, **options)


def run_training(arguments: argparse.Namespace) -> int:
    config = configure(arguments)
    if arguments.out is None and arguments.preset is None:
        raise ValueError("say with --out where the run is to be")
    from .training.begin import train

    out = arguments.out or RUNS / run_name(arguments.preset, config.seed)
    how = {name: getattr(arguments, name) for name in (*HOW, "force", "save_every")}
    return train(config, out, **how)


def run_track(arguments: argparse.Namespace) -> int:
    config = configure(arguments)
    from .tools import track

    name = arguments.preset or f"{config.task}-{config.size}x{config.size}-{config.spectrum}"
    recipe = arguments.recipe or "fast"
    row = track.measure(name, config, recipe, **{name: getattr(arguments, name) for name in HOW})
    print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)  # first: the disk may be full
    track.add(row)
    return 0


def run_predictions(arguments: argparse.Namespace) -> int:
    from .analysis.predictions import is_current, predict
    from .training.runs import find, load_run

    for path in [find(name) for name in arguments.run] or sorted(path.parent for path in RUNS.glob("*/run.json")):
        run = load_run(path)
        known = preset_of_run(run.name) if path.parent == RUNS else None
        preset, seed = known or (Preset(run.config, tested=(run.config.spectrum,)), 0)
        n = arguments.problems or preset.problems_for(seed)
        for spectrum in [arguments.spectrum] if arguments.spectrum else preset.tested:
            if arguments.run or not is_current(path, spectrum, n):
                print(predict(run, n, spectrum), flush=True)
    return 0


def run_bench(arguments: argparse.Namespace) -> int:
    import torch

    from .tools.bench import bench

    torch.set_num_threads(arguments.threads)
    table = bench(arguments.seconds)
    if arguments.csv:
        print(table.to_csv(index=False), end="")
    return 0


def job(name: str, arguments: argparse.Namespace):
    """PRESET or PRESET:SEED as a queue.Job, with the options of the queue. Errors as `train` has them."""
    from .tools.queue import Job

    preset, _, seed = name.partition(":")
    words = ["train", preset, f"--seed={seed or 0}", f"--threads={arguments.threads}", "--no-bar", *arguments.options]
    asked = parser().parse_args(words)
    if asked.force or asked.out:
        raise ValueError("--out stands before the lone --, --force is for train: a queue goes on with what it began")
    config = configure(asked)
    run = arguments.out / run_name(preset, config.seed)
    return Job(run, config, (*words, f"--out={run}"))


def run_queue(arguments: argparse.Namespace) -> int:
    from .tools import queue

    all_names = [f"{name}:{seed}" for name, preset in PRESETS.items() for seed in preset.seeds]
    jobs = [job(name, arguments) for name in arguments.name or all_names]
    if arguments.slurm is None:
        return queue.run_here(jobs, arguments.at_once)
    wanted = {"slurm_partition": arguments.partition, "gpus_per_node": arguments.gpus}
    wanted = {name: value for name, value in wanted.items() if value} | {"cpus_per_task": arguments.threads}
    for submitted in queue.submit(jobs, arguments.slurm, hours=arguments.hours, **wanted):
        print(submitted.job_id)
    return 0


def run_import(arguments: argparse.Namespace) -> int:
    from .tools.published import import_model, import_predictions

    file, out = arguments.file, arguments.out
    print(import_model(file, out) if out else import_predictions(file, arguments.name))
    return 0


def run_listing(arguments: argparse.Namespace) -> int:
    for name, preset in PRESETS.items():
        seeds = f"seeds {', '.join(map(str, preset.seeds))}"
        print(f"{name:28} {seeds:13} {'; '.join(map(str, preset.config.phases))}")
    return 0


def main(words: list[str] | None = None) -> int:
    """Run a command. Returns 0, 1 for what failed, 2 for what cannot be done as asked, 128 + a signal's number."""
    words = sys.argv[1:] if words is None else words
    end = words.index("--") if words[:1] == ["queue"] and "--" in words else len(words)
    arguments = parser().parse_args(words[:end], argparse.Namespace(options=words[end + 1 :]))
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mathtransformer").setLevel(logging.INFO)
    interrupts.raise_interrupted()
    try:
        return arguments.do(arguments)
    except (Exception, interrupts.Interrupted) as error:
        if stop := interrupts.behind(error):
            print(stop, file=sys.stderr)
            return stop.status
        if not isinstance(error, (ValueError, TypeError, FloatingPointError, OSError)):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (ValueError, TypeError)) else 1


if __name__ == "__main__":
    sys.exit(main())
