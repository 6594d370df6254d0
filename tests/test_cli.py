"""The command line as a user meets it: one line for a mistake. How it ends when told to stop: see test_faults.py."""

import re
import subprocess
import sys

import pytest

from mathtransformer import __main__ as cli

TRAIN = ["train", "eigenvectors-3x3"]


def command(*arguments):
    return [sys.executable, "-m", "mathtransformer", *map(str, arguments)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "eigenvector-3x3"], "did you mean eigenvectors-3x3"),
        ([*TRAIN, "--heads", "3"], "not a multiple"),
        ([*TRAIN, "--output", "P1000"], "positions='sequence'"),
        (["train", "eigenvectors-3x3-paper", "--positions", "row-column"], "positions='sequence'"),
        ([*TRAIN, "--resume", "--force"], "not allowed with"),
        ([*TRAIN, "--minutes", "1", "--examples", "9"], "not allowed with"),
        ([*TRAIN, "--minutes", "0"], "budget must be positive"),
        ([*TRAIN, "--learning-rate", "-1"], "learning_rate"),
        ([*TRAIN, "--size", "21"], "unrecognized arguments"),
        ([*TRAIN, "--schedule", "lineer"], "linear or cosine"),
        ([*TRAIN, "--device", "gpu"], "invalid choice"),
        (["predict", "nothing"], "unknown run"),
        (["trian"], "invalid choice"),
        (["list", "a\nb"], "unrecognized arguments: a b$"),
        ([*TRAIN, "--examples", "0"], "budget"),
        ([*TRAIN, "--minutes", "nan"], "budget"),
        ([*TRAIN, "--threads", "-1"], "threads"),
        (["bench", "--threads", "0"], "threads"),
        (["queue", "--out", __file__], "--out: .* is no folder"),
        (["queue", "--slurm", __file__], "--slurm: .* is no folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_get_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    if arguments[0] == "train":
        arguments = [*arguments, "--out", str(tmp_path / "run"), "--no-compile"]
    if arguments[0] == "bench":
        arguments = [*arguments, "--seconds", "0.01", "--out", str(tmp_path / "bench.csv")]
    monkeypatch.setattr(sys, "argv", ["mathtransformer", *arguments])
    try:
        status = cli.main()
    except SystemExit as end:
        status = end.code
    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    assert re.search(message, lines[-1])
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_a_process_of_its_own():
    result = subprocess.run(command(*TRAIN, "--heads", 3), capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.splitlines() == ["error: width 128 is not a multiple of heads 3"]


def test_list(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mathtransformer", "list"])
    assert cli.main() == 0
    assert "eigenvalues-3x3-laplace" in capsys.readouterr().out
