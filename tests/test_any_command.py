"""Every wrong command line gets one line that names the problem and exit code 2, before any work is done.

The commands, options and their types are the parser's own, so that a new option is tested as soon as it is there: if
one of the WRONG values is right for it, add it to FINE. WORK is what a command begins once it is satisfied.
"""

import argparse
import contextlib
import io
import itertools
import re
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from anything import for_any
from hypothesis import strategies as st

from mathtransformer import __main__ as cli
from mathtransformer.analysis import predictions
from mathtransformer.tools import bench, queue
from mathtransformer.training import begin

SCRATCH = tempfile.TemporaryDirectory()
OUT, FILE = Path(SCRATCH.name) / "run", Path(SCRATCH.name) / "file"
FILE.write_text("not a folder")

HUGE = "1" + 30 * "0"
TEXTS = ["nonsense", "", "x" * 300, "x" * 5000, "a\nb", "\udcff", "a\0b", "eigenvector-3x3", "3"]
NO_COUNTS = ["-1", "0", HUGE, "1.5", "x", "", "nan", "1e3", "0x10", "9" * 5000]
NO_DURATIONS = ["-1", "0", "nan", "inf", "-inf", "1e999", "x", "", "1,5"]
WRONG = {
    int: NO_COUNTS,
    cli.count: NO_COUNTS,
    float: NO_DURATIONS,
    cli.duration: NO_DURATIONS,
    str: TEXTS,
    cli.folder: ["", "a\0b", "x" * 300, f"{FILE}/below", f"{FILE}/far/below", "/dev/null/below"],
}
FINE = {
    "seed": ["0"], "warmup": ["0", HUGE], "examples": [HUGE], "beta2": ["0"], "clip": ["inf", "1e999"],
    "save_every": ["0", "inf", "1e999"], "partition": TEXTS, "components": ["0"],
    "weight_decay": ["0"], "decoder_width": ["0"], "decoder_heads": ["0"],
}  # fmt: skip
PRESETS = ["eigenvectors-3x3", "eigenvalues-3x3-laplace", "inversion-2x2", "eigenvectors-3x3-half", "eigenvectors-5x5"]
NAMES = ["eigenvalues-21x21", "eigenvalues-0x0", "eigenvalues-2x3", "inversion-3x3-laplace", "eigenvectors-3x3:x", ":"]
NAMES += ["eigenvectors-3x3:-1", f"eigenvalues-{'9' * 400}x{'9' * 400}", "eigenvectors-3x3-half-laplace", "..", "/"]
CONTRADICTIONS = [
    ("eigenvectors-3x3", "--heads=3"), ("eigenvectors-3x3", "--width=20"), ("eigenvectors-3x3", "--output=P1000"),
    ("eigenvectors-3x3", "--start=inversion"), ("inversion-2x2", "--canonical-shift"),
]  # fmt: skip
if not torch.cuda.is_available():
    CONTRADICTIONS.append(("eigenvectors-3x3", "--device=cuda"))
NAMED = {  # other words for an argument
    "minutes": ["budget"], "examples": ["budget"],
    "preset": ["size", "spectrum"], "name": ["preset", "seed", "size", "spectrum"], "size": ["leave one of them out"],
    "task": ["leave one of them out"], "recipe": ["leave one of them out"], "spectrum": ["leave one of them out"],
}  # fmt: skip
WORK = [(begin, "Trainer"), (bench, "bench"), (predictions, "predict"), (queue, "run_here"), (queue, "submit")]


def commands() -> dict[str, argparse.ArgumentParser]:
    return next(a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction)).choices


def flag_and_value(option: str) -> list[str]:
    """What a message about "--flag=value" names."""
    return option.strip("-").replace("-", "_").split("=")


def wrong_values(action: argparse.Action) -> list[str]:
    kind = action.type if action.type in WRONG else str
    return [value for value in WRONG[kind] if value not in FINE.get(action.dest, [])]


def mistakes_with(action: argparse.Action) -> list[list[str]]:
    """The wrong ways to give one argument."""
    if not action.option_strings:
        return [[value] for value in [*wrong_values(action), *NAMES]]
    flag = action.option_strings[0]
    if action.nargs == 0:
        return [[f"{flag}=1"], [f"{flag}=no"]]
    return [[flag], *([f"{flag}={value}"] for value in wrong_values(action))]


def mistakes() -> list[tuple[str, list[str], list[str], str]]:
    """(command, its positional arguments, a wrong option, what the message must name one of) for every mistake."""
    found = []
    for command, parser in commands().items():
        actions = [a for a in parser._actions if not isinstance(a, argparse._HelpAction)]
        needed = [a for a in actions if a.dest == "preset"]
        right = PRESETS if needed else [str(FILE)] if any(a.dest == "file" for a in actions) else []
        for action in actions:
            about = [action.dest, action.dest.replace("_", "-"), *action.option_strings, *NAMED.get(action.dest, [])]
            for wrong in mistakes_with(action):
                positional = [] if not action.option_strings else right
                found.append((command, positional, wrong, [*about, repr(wrong[0].partition("=")[2] or wrong[0])]))
        found += [(command, [], [], [a.dest]) for a in needed]
        found += [(command, right, [extra], [extra]) for extra in ("--surplus", "--surplus=1", "-z")]
        if all(a.option_strings or a.nargs != "*" for a in actions):
            found.append((command, right, ["surplus"], ["surplus"]))
        for group in parser._mutually_exclusive_groups:
            for pair in itertools.combinations(group._group_actions, 2):
                flags = [a.option_strings[0] for a in pair]
                given = [flag if a.nargs == 0 else f"{flag}=1" for flag, a in zip(flags, pair)]
                found.append((command, right, given, flags))
        if needed:
            found += [(command, [preset], [option], flag_and_value(option)) for preset, option in CONTRADICTIONS]
    return found + [(command, [], [], ["command"]) for command in ("", "nonsense", "trian", "--train", "--surplus")]


MISTAKES = mistakes()
OUTS = [command for command, parser in commands().items() if "--out" in parser._option_string_actions]
NOT_ALWAYS = ("help", "canonical_shift")  # the second is a mistake for inversion
HARMLESS = {
    command: [flag for a in parser._actions if a.nargs == 0 and a.dest not in NOT_ALWAYS for flag in a.option_strings]
    for command, parser in commands().items()
}


def run(arguments: list[str]) -> tuple[int, list[str]]:
    """(exit code, the lines on stderr but for argparse's usage); AssertionError if anything is begun."""

    def begin(*_, **__):
        raise AssertionError(f"accepted: {arguments}")

    error = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(error):
        patch.setattr(cli, "RUNS", Path(SCRATCH.name) / "runs")
        for module, name in WORK:
            patch.setattr(module, name, begin)
        try:
            status = cli.main(arguments)
        except SystemExit as end:
            status = end.code
    return status, [line for line in error.getvalue().splitlines() if not re.match("usage:| ", line)]


@for_any(100, 3000, data=st.data(), mistake=st.sampled_from(MISTAKES))
def test_any_mistake(data, mistake):
    command, positional, wrong, about = mistake
    flags = HARMLESS.get(command)
    harmless = data.draw(st.lists(st.sampled_from(flags), max_size=1)) if flags else []
    positional = [data.draw(st.sampled_from(positional))] if positional else []
    options = [*harmless, *wrong] if data.draw(st.booleans()) else [*wrong, *harmless]
    out = [] if any(option.startswith("--out") for option in wrong) or command not in OUTS else [f"--out={OUT}"]
    shutil.rmtree(OUT, ignore_errors=True)
    status, lines = run([*([command] if command else []), *positional, *out, *options])
    assert status == 2
    assert len(lines) == 1, lines
    assert any(word in lines[0] for word in about), (lines, about)
    assert not OUT.exists()


def test_mistakes_are_many():
    assert len(MISTAKES) > 300
    assert {command for command, *_ in MISTAKES} > set(commands())
