"""What the repository promises of itself. `python tests/test_repository.py` rewrites the table in the README."""

import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

from mathtransformer import runs
from mathtransformer.config import LEGS, Config, get_preset, later_leg

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TABLE = re.compile(r"(<!-- table: data/results/paper_and_ours.csv -->\n).*?(<!-- end of table -->)", re.S)


def table() -> str:
    """The results of notebook 04 as a Markdown table."""
    rows = pd.read_csv(ROOT / "data" / "results" / "paper_and_ours.csv", dtype=str)
    names = {"interval": "95 % interval (%)"}
    lines = [[names.get(name, name) for name in rows.columns], ["---"] * len(rows.columns), *rows.to_numpy().tolist()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def test_readme_has_the_table_of_notebook_04():
    found = TABLE.search((ROOT / "README.md").read_text())
    assert found and found[0] == f"{found[1]}{table()}{found[2]}"


@pytest.mark.parametrize("folder", sorted(runs.RUNS.glob("*")), ids=lambda folder: folder.name)
def test_stored_runs_are_what_their_presets_say(folder):
    info = runs.read_info(folder)
    preset, _, seed = folder.name.partition("-seed")
    config = get_preset(preset).changed(seed=int(seed or 0))
    legs = [*(leg["config"] for leg in info.get("legs", [])), info["config"]]
    for number, trained in enumerate(legs):
        expected = config
        if preset in LEGS:  # each leg has its own budget
            leg = Config.from_json(trained)
            expected = later_leg(config.changed(examples=leg.examples, minutes=leg.minutes), number)
        runs.check_same(folder, trained, expected)


def test_conda_and_pip_agree():
    pins = (ROOT / "requirements.txt").read_text().split("\n")[:-1]
    conda = (ROOT / "environment.yml").read_text().partition("- pip:\n")[2]
    assert [line.removeprefix("      - ") for line in conda.split("\n")[:-1]] == pins
    assert pins[-1] == "-e ." and all("==" in pin for pin in pins[:-1])


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 6


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_saved_as_run(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert max(len("".join(cell["source"]).splitlines()) for cell in code) <= 25
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs and not any(o["output_type"] == "error" or o.get("name") == "stderr" for o in outputs)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    saved = re.findall(r'save\(figure, "(\w+)"\)', "".join("".join(cell["source"]) for cell in code))
    assert all((ROOT / "figures" / f"{name}.png").exists() for name in saved)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_say_how_to_install_the_library(path, monkeypatch):
    cells = json.loads(path.read_text())["cells"]
    assert [cell["cell_type"] for cell in cells[:2]] == ["markdown", "code"]
    monkeypatch.setitem(sys.modules, "mathtransformer", None)
    with pytest.raises(ModuleNotFoundError, match="run `make setup`"):
        exec("".join(cells[1]["source"]), {})


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert len(links) >= 8
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("folder", sorted(runs.RUNS.glob("*/")), ids=lambda folder: folder.name)
def test_runs_are_whole_and_finished(folder):
    run = runs.load_run(folder)
    assert run.info["finished"]
    assert run.log.examples.iloc[-1] == run.info["examples"]
    assert (folder / "model.safetensors").stat().st_size < 10e6


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(TABLE.sub(lambda found: f"{found[1]}{table()}{found[2]}", readme.read_text()))
