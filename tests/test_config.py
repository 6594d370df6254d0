"""Budgets and options that no training can use."""

from dataclasses import replace

import pytest

from mathtransformer.config import PRESETS, Config, get_preset, later_leg


@pytest.mark.parametrize(
    "options",
    [
        {"examples": 0},
        {"minutes": float("nan")},
        {"minutes": float("inf")},
        {"learning_rate": float("nan")},
        {"clip": float("nan")},
        {"examples": -5},
        {"seed": -1},
        {"seed": 2**63},
        {"decay": float("nan")},
        {"optimizer": "sgd"},
    ],
    ids=str,
)
def test_impossible_numbers_are_refused(options):
    with pytest.raises(ValueError):
        PRESETS["eigenvectors-3x3"].changed(**options)


def test_any_task_size_spectrum_and_recipe_is_a_preset():
    config = get_preset("eigenvalues-7x7-laplace-paper")
    assert (config.task, config.size, config.spectrum, config.recipe) == ("eigenvalues", 7, "laplace", "paper")
    assert config.model.output == "P1000" and config.minutes == 60
    assert get_preset("inversion-4x4").spectrum == "semicircle"
    assert get_preset("eigenvectors-3x3") is PRESETS["eigenvectors-3x3"]


@pytest.mark.parametrize(
    "name, message",
    [
        ("eigenvalues-7x7-laplac", "did you mean eigenvalues-8x8-laplace"),
        ("eigenvalues-7x5", "unknown preset"),
        ("eigenvectors-21x21", "size must be from 1 to 20"),
        ("inversion-3x3-laplace", "inversion has no spectrum"),
    ],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        get_preset(name)


def test_runs_from_before_an_option_did_without_it():
    values = PRESETS["eigenvectors-3x3"].to_json()
    for option in ("components", "cotrain", "canonical_input"):
        del values["model"][option]
    del values["training"]["optimizer"]
    assert Config.from_json(values) == PRESETS["eigenvectors-3x3"]
    now = get_preset("eigenvectors-7x7")
    assert now.model.components and now.model.canonical_input and not now.model.cotrain
    assert now.training.optimizer == "muon"


def test_later_legs_keep_what_was_asked_for():
    config = get_preset("eigenvectors-5x5")
    assert later_leg(config, 0) == config
    for legs, rate in ((1, 1e-3), (2, 5e-4), (9, 5e-4)):
        assert later_leg(config, legs).training == replace(config.training, batch=256, learning_rate=rate, decay=1.0)
    asked = later_leg(config.changed(batch=64, minutes=5), 1, ["batch", "minutes"])
    assert asked.training == replace(config.training, batch=64, learning_rate=1e-3, decay=1.0) and asked.minutes == 5


def test_learning_rates():
    fast, paper = (PRESETS[name].training for name in ("eigenvectors-3x3", "eigenvectors-3x3-paper"))
    assert fast.rate(99, 0.01) == pytest.approx(1e-3)
    assert fast.rate(5000, 0.5) == pytest.approx(2e-3)
    assert fast.rate(9000, 0.75) == pytest.approx(1e-3)
    assert fast.rate(9999, 1.0) == 0
    assert paper.rate(0, 0.05) == pytest.approx(0.5e-4, rel=0.02)  # warm-up: a tenth of the budget
    assert paper.rate(10**6, 0.5) == pytest.approx(0.55e-4)
    assert paper.rate(10**6, 1.0) == pytest.approx(1e-5)
