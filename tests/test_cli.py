"""The command line as a user meets it: one line for a mistake. How it ends when told to stop: see test_faults.py."""

import re
import signal
import subprocess
import sys
import time

import pytest

from mathtransformer import __main__ as cli
from mathtransformer import files
from mathtransformer.interrupts import Interrupted
from mathtransformer.tools import track
from mathtransformer.training.config import Phase

TRAIN = ["train", "eigenvectors-3x3"]


def command(*arguments):
    return [sys.executable, "-m", "mathtransformer", *map(str, arguments)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "eigenvector-3x3"], "did you mean eigenvectors-3x3"),
        ([*TRAIN, "--heads", "3"], "not a multiple"),
        ([*TRAIN, "--output", "P1000"], "positions='sequence'"),
        (
            ["train", "--task", "inversion", "--size", "3", "--recipe", "paper", "--positions", "row-column"],
            "positions='sequence'",
        ),
        ([*TRAIN, "--minutes", "1", "--phase", "minutes=1"], "--phase says what"),
        (["train", "--task", "inversion"], "--task and --size"),
        ([*TRAIN, "--task", "inversion"], "leave one of them out"),
        ([*TRAIN, "--phase", "minutes=x"], "invalid phase value"),
        (["queue", "inversion-2x2", "--", "--widht", "4"], "unrecognized arguments: --widht 4"),
        (["queue", "inversion-2x2", "--", "--force"], "--force is for train"),
        (["queue", "inversion-2x2", "--", "--out", "here"], "--out stands before"),
        ([*TRAIN, "--minutes", "1", "--examples", "9"], "not allowed with"),
        ([*TRAIN, "--minutes", "0"], "budget, positive and finite"),
        ([*TRAIN, "--learning-rate", "-1"], "learning_rate"),
        ([*TRAIN, "--size", "21"], "leave one of them out"),
        ([*TRAIN, "--schedule", "lineer"], "did you mean linear"),
        ([*TRAIN, "--device", "gpu"], "invalid choice"),
        (["predict", "nothing"], "unknown run"),
        (["trian"], "invalid choice"),
        (["list", "a\nb"], "unrecognized arguments: a b$"),
        ([*TRAIN, "--examples", "0"], "budget"),
        ([*TRAIN, "--minutes", "nan"], "budget"),
        ([*TRAIN, "--threads", "-1"], "threads"),
        (["bench", "--threads", "0"], "threads"),
        (["queue", "--out", __file__], "--out: Not a directory"),
        (["queue", "--slurm", __file__], "--slurm: Not a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_get_one_line(arguments, message, tmp_path, capsys):
    if arguments[0] == "train":
        arguments = [*arguments, "--out", str(tmp_path / "run"), "--no-compile"]
    if arguments[0] == "bench":
        arguments = [*arguments, "--seconds", "0.01"]
    try:
        status = cli.main(arguments)
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


def test_list(capsys):
    assert cli.main(["list"]) == 0
    assert "eigenvalues-3x3-laplace" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_first_moments_leaves_one_line(number):
    """Not before Python itself has begun, which takes longer on a busy machine."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    wait = max(0.3, 4 * (time.monotonic() - begun))
    process = subprocess.Popen(command(*TRAIN, "--minutes", 1), stderr=subprocess.PIPE, text=True)
    time.sleep(wait)
    process.send_signal(number)
    told = process.communicate(timeout=20)[1]
    assert process.returncode in (128 + number, -number) and "Traceback" not in told, told


def test_a_signal_within_other_errors_is_a_signal(monkeypatch, capsys):
    """Python 3.11 makes a RuntimeError of what is raised while a class is defined, such as by an import."""

    def importing(arguments):
        raise RuntimeError("Error calling __set_name__") from Interrupted(signal.SIGTERM)

    monkeypatch.setattr(cli, "run_listing", importing)
    assert cli.main(["list"]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "stopped by SIGTERM\n"


def test_a_disk_that_refuses_the_row_of_a_track(tmp_path, monkeypatch, capsys):
    """The row is printed first: it is what an hour was spent for."""

    def refuse(contents):
        raise OSError(28, "No space left on device", str(tmp_path / "track.csv"))

    monkeypatch.setattr(track, "measure", lambda *_, **__: {"preset": "x", "loss": 1.25})
    monkeypatch.setattr(files, "write", refuse)
    monkeypatch.setattr(track.add, "__defaults__", (tmp_path / "track.csv",))
    assert cli.main(["track", "eigenvectors-3x3", "--minutes", "1"]) == 1
    told = capsys.readouterr()
    assert told.out == "preset=x loss=1.25\n"
    assert told.err.splitlines()[-1].startswith("error: [Errno 28] No space left")
    monkeypatch.setattr(files.FileLock, "acquire", lambda lock: refuse(None))
    assert cli.main(["track", "eigenvectors-3x3", "--minutes", "1"]) == 2
    assert (
        capsys.readouterr().err == f"error: cannot write into {tmp_path}: No space left on device\n"
    )  # track: no --out


def test_the_problem_can_be_said_in_words():
    words = ["train", "--task", "eigenvalues", "--size", "4", "--spectrum", "laplace", "--recipe", "paper"]
    words += ["--phase", "minutes=2,batch=8", "--phase", "examples=100,learning-rate=1e-3"]
    config = cli.configure(cli.parser().parse_args(words))
    assert (config.task, config.size, config.spectrum, config.model.output) == ("eigenvalues", 4, "laplace", "P1000")
    assert config.phases == (Phase(minutes=2, batch=8), Phase(examples=100, learning_rate=1e-3))
