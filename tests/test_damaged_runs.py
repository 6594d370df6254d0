"""Damage that a checksum or a version check must notice, beyond the cases of test_runs.py."""

import json
import shutil

import pytest

from mathtransformer import load_run, runs, training
from mathtransformer.config import PRESETS

TINY = {"width": 16, "heads": 2, "encoder_layers": 1, "batch": 16, "examples": 320}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folders = [tmp_path_factory.mktemp("runs") / f"seed{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        config = PRESETS["eigenvectors-3x3"].changed(seed=seed, **TINY)
        assert training.train(config, folder, compiled=False, show=False, threads=1, device="cpu") == 0
    return folders


def test_weights_of_another_run_are_refused(pair, tmp_path):
    assert load_run(pair[0]).config.seed == 0
    mixed = shutil.copytree(pair[0], tmp_path / "mixed")
    shutil.copy(pair[1] / "model.safetensors", mixed)
    with pytest.raises(runs.RunError, match="model.safetensors and run.json do not belong together"):
        load_run(mixed)


def test_resuming_where_run_json_lost_a_field(pair, tmp_path):
    folder = shutil.copytree(pair[0], tmp_path / "edited")
    info = json.loads((folder / "run.json").read_text())
    del info["finished"]
    (folder / "run.json").write_text(json.dumps(info))
    config = PRESETS["eigenvectors-3x3"].changed(**TINY)
    with pytest.raises(runs.RunError, match="run.json"):
        training.train(config, folder, resume=True, compiled=False, show=False, threads=1, device="cpu")
