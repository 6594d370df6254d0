"""The recipe track: what a row says, and that rows of several processes do not get lost."""

import pandas as pd
import pytest

from mathtransformer.tools import track
from mathtransformer.training.config import Config, Phase

TINY = {"width": 16, "heads": 2, "encoder_layers": 1, "batch": 16}
BEGIN = {"compiled": False, "show": False, "threads": 1, "device": "cpu"}


def test_what_differs_from_the_recipe():
    config = Config.of("eigenvalues", 4, {"minutes": 3}, spectrum="laplace", seed=7)
    assert track.changes(config) == ""
    changed = config.changed(beta2=0.9, width=64, start="eigenvectors-3x3", entries="normal")
    assert set(track.changes(changed).split()) == {"beta2=0.9", "width=64", "start=eigenvectors-3x3", "entries=normal"}
    assert track.changes(config.changed(minutes=9, batch=256)) == "batch=256"
    assert track.changes(Config.of("eigenvectors", 3, {"minutes": 13}, recipe="paper"), "paper") == ""


def test_a_row_says_what_wrong_answers_keep(monkeypatch):
    monkeypatch.setattr(track, "PROBLEMS", 3)
    columns = {"error": [0.01, 0.2, 0.3], "eigenvalues": [0.2, 0.01, 0.06], "norm": [0.2, 0.01, 0.02]}
    monkeypatch.setattr(track, "judge", lambda *_: pd.DataFrame(columns | {"cond_V": [1.0, 1.0, 1.0]}))
    row = track.measure("tiny", Config.of("eigenvectors", 2, {"examples": 16}, **TINY), **BEGIN)
    assert row["within_5%"] == pytest.approx(1 / 3) and "wrong_cond_V" not in row and "wrong_error" not in row
    assert (row["wrong_eigenvalues"], row["wrong_norm"]) == (0.5, 1.0)


def test_a_row_is_a_training_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(track, "PROBLEMS", 200)
    config = Config.of("eigenvalues", 1, {"examples": 16 * 400}, **TINY)
    row = track.measure("eigenvalues-1x1", config, **BEGIN)
    assert set(row["changes"].split()) == {"width=16", "heads=2", "encoder_layers=1", "batch=16"}
    assert row["examples"] == 6400 and row["preset"] == "eigenvalues-1x1"
    assert 0 <= row["within_1%"] <= row["within_5%"] <= row["within_25%"] <= 1
    assert row["within_25%"] > 0.2  # the eigenvalue of a number is that number
    halves = config.changed(phases=(Phase(3200, batch=16),) * 2)
    parts = track.measure("eigenvalues-1x1", halves, **BEGIN)
    assert parts["changes"] == row["changes"] + " phases=2" and parts["examples"] == 6400
    assert parts["loss"] != row["loss"] and parts["within_25%"] > 0.2
    for seed in range(3):
        track.add({**row, "seed": seed}, tmp_path / "track.csv")
    table = pd.read_csv(tmp_path / "track.csv")
    assert table.seed.tolist() == [0, 1, 2]
    assert table["within_5%"].tolist() == pytest.approx([row["within_5%"]] * 3)
