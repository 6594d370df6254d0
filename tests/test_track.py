"""The recipe track: what a row says, and that rows of several processes do not get lost."""

import pandas as pd
import pytest

from mathtransformer import track
from mathtransformer.config import PRESETS, get_preset

TINY = {"width": 16, "heads": 2, "encoder_layers": 1, "batch": 16}


def test_a_lever_is_what_differs_from_the_recipe():
    assert track.lever(get_preset("eigenvalues-4x4-laplace")) == ""
    config = get_preset("eigenvalues-4x4-laplace").changed(beta2=0.9, width=64, start="eigenvectors-3x3")
    assert track.lever(config) == "width=64 beta2=0.9 start=eigenvectors-3x3"
    assert track.lever(PRESETS["eigenvectors-3x3-paper"]) == ""


def test_a_row_is_a_training_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(track, "PROBLEMS", 200)
    config = get_preset("eigenvalues-1x1").changed(examples=16 * 400, **TINY)
    row = track.measure(config, compiled=False, show=False, threads=1, device="cpu")
    assert row["lever"] == "width=16 heads=2 encoder_layers=1 batch=16" and row["examples"] == 6400
    assert 0 <= row["within_1%"] <= row["within_5%"] <= row["within_25%"] <= 1
    assert row["within_25%"] > 0.2  # the eigenvalue of a number is that number
    legs = track.measure(config, 2, compiled=False, show=False, threads=1, device="cpu")
    assert legs["lever"] == row["lever"] + " legs=2" and legs["examples"] == 6400
    assert legs["loss"] != row["loss"] and legs["within_25%"] > 0.2
    with pytest.raises(ValueError, match="legs must be from 1"):
        track.measure(config, 0)
    for seed in range(3):
        track.add({**row, "seed": seed}, tmp_path / "track.csv")
    table = pd.read_csv(tmp_path / "track.csv")
    assert table.seed.tolist() == [0, 1, 2]
    assert table["within_5%"].tolist() == pytest.approx([row["within_5%"]] * 3)
