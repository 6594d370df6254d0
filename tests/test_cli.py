"""The command line as a user meets it: one line for a mistake, and a clean end when told to stop."""

import json
import signal
import subprocess
import sys
import time

import pytest

SMALL = ["--width", "16", "--heads", "2", "--encoder-layers", "1", "--no-compile", "--threads", "1", "--device", "cpu"]


def command(*arguments):
    return [sys.executable, "-m", "mathtransformer", *map(str, arguments)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "eigenvector-3x3"], "did you mean eigenvectors-3x3"),
        (["train", "eigenvectors-3x3", "--heads", "3"], "not a multiple"),
        (["train", "eigenvectors-3x3", "--output", "P1000"], "positions='sequence'"),
        (["train", "eigenvectors-3x3", "--resume", "--force"], "not allowed with"),
        (["train", "eigenvectors-3x3", "--minutes", "1", "--examples", "9"], "not allowed with"),
        (["train", "eigenvectors-3x3", "--minutes", "0"], "budget must be positive"),
        (["train", "eigenvectors-3x3", "--learning-rate", "-1"], "learning_rate"),
        (["train", "eigenvectors-3x3", "--size", "21"], "unrecognized arguments|from 1 to 20"),
        (["train", "eigenvectors-3x3", "--schedule", "lineer"], "linear or cosine"),
        (["train", "eigenvectors-3x3", "--device", "gpu"], "invalid choice"),
        (["predict", "nothing"], "unknown run"),
        (["trian"], "invalid choice"),
    ],
)
def test_mistakes_get_one_line(arguments, message):
    result = subprocess.run(command(*arguments), capture_output=True, text=True)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert any(choice in result.stderr.splitlines()[-1] for choice in message.split("|"))


def test_list():
    result = subprocess.run(command("list"), capture_output=True, text=True, check=True)
    assert "eigenvalues-3x3-laplace" in result.stdout
    runs = subprocess.run(command("list", "--runs"), capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(runs) == 18 and "eigenvectors-3x3 --seed 2" in runs


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends(tmp_path, number):
    folder = tmp_path / "run"
    arguments = ["train", "eigenvectors-3x3", "--examples", 10**7, "--out", folder, *SMALL]
    steps = []
    for resume in ([], ["--resume"]):
        process = subprocess.Popen(command(*arguments, *resume), stderr=subprocess.PIPE)
        time.sleep(1)
        while process.poll() is None and not (folder / "checkpoint.safetensors").exists() and "parameters" not in str(
            process.stderr.readline()
        ):  # fmt: skip
            time.sleep(0.1)
        time.sleep(3)
        begun = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number
        assert time.monotonic() - begun < 5
        steps.append(json.loads((folder / "run.json").read_text())["steps"])
    assert 0 < steps[0] < steps[1]
    assert not json.loads((folder / "run.json").read_text())["finished"]
