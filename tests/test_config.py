"""Budgets and options that no training can use."""

import json

import pytest

from mathtransformer.training.config import RECIPES, Config, Phase
from mathtransformer.training.presets import PRESETS, get_preset, preset_of_run, run_name


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
        PRESETS["eigenvectors-3x3"].config.changed(**options)


def test_a_name_is_a_preset_or_refused():
    assert get_preset("eigenvectors-3x3") is PRESETS["eigenvectors-3x3"]
    with pytest.raises(ValueError, match="did you mean .*eigenvalues-3x3-laplace"):
        get_preset("eigenvalues-7x7-laplace")
    assert preset_of_run("eigenvectors-3x3-seed2") == (PRESETS["eigenvectors-3x3"], 2)
    assert preset_of_run("eigenvectors-3x3-seed9") is None and run_name("a", 0) == "a"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"task": "eigenvalues", "size": 21}, "must be from 1 to 20"),
        ({"task": "inversion", "size": 3, "spectrum": "laplace"}, "inversion has no spectrum"),
        ({"task": "eigenvalue", "size": 3}, "did you mean eigenvalues"),
        ({"task": "inversion", "size": 3, "recipe": "slow"}, "unknown recipe"),
    ],
)
def test_problems_that_are_not_there(options, message):
    with pytest.raises(ValueError, match=message):
        Config.of(**options)


def test_configurations_survive_json():
    for preset in PRESETS.values():
        again = Config.from_json(json.loads(json.dumps(preset.config.to_json())))
        assert again == preset.config and not again.differences(preset.config)
    with pytest.raises(ValueError, match="not a configuration of this version"):
        Config.from_json({**preset.config.to_json(), "colour": "red"})


def test_a_budget_makes_one_phase():
    config = PRESETS["inversion-3x3"].config
    assert len(config.phases) == 2
    assert config.changed(examples=100, batch=8).phases == (Phase(examples=100, batch=8),)
    with pytest.raises(ValueError, match="2 phases; give a budget"):
        config.changed(batch=8)


def test_learning_rates():
    fast, paper = (Config.of("eigenvectors", 3, {"minutes": 1}, recipe=recipe) for recipe in RECIPES)

    def rate(config, *place):
        return config.phases[0].rate(*place[:2], config.training, *place[2:])

    assert rate(fast, 99, 0.01) == pytest.approx(1e-3)
    assert rate(fast, 5000, 0.5) == pytest.approx(2e-3)
    assert rate(fast, 9000, 0.75) == pytest.approx(1e-3)
    assert rate(fast, 9999, 1.0) == 0
    assert rate(fast, 99, 0.41, 0.4) == pytest.approx(1e-3)  # a warm-up that began at two fifths
    assert rate(paper, 0, 0.05) == pytest.approx(0.5e-4, rel=0.02)  # warm-up: a tenth of the budget
    assert rate(paper, 10**6, 0.5) == pytest.approx(0.55e-4)
    assert rate(paper, 10**6, 1.0) == pytest.approx(1e-5)
