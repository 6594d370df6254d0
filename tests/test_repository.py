"""What the repository promises. `python tests/test_repository.py` rewrites the numbers and tables of the README."""

import json
import re
import sys
import tempfile
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from mathtransformer.analysis import plotting
from mathtransformer.paths import RUNS
from mathtransformer.training.presets import PRESETS, run_name
from mathtransformer.training.runs import check_same, load_run

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TABLE = re.compile(r"(<!-- table: (data/results/\w+\.csv) -->\n).*?(<!-- end of table -->)", re.S)
NUMBER = re.compile(r"(<!-- (5x5|3x3): (.+?) -->).*?(<!-- end -->)")


def table(path: str) -> str:
    """A table of notebook 04 in Markdown: of the claims, those that the README has."""
    rows = pd.read_csv(ROOT / path, dtype=str)
    if "readme" in rows:
        rows = rows[rows.readme == "1"].drop(columns=["readme", "run", "holds"])
    lines = [rows.columns, ["---"] * len(rows.columns), *rows.to_numpy()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def number(size: str, claim: str) -> str:
    """Ours, of a claim that the README has, with its interval."""
    rows = pd.read_csv(ROOT / "data/results/paper_and_ours.csv", dtype=str)
    row = rows[(rows["size"] == size) & (rows.claim == claim) & (rows.readme == "1")].squeeze()
    return f"{row.ours} ({row['95 % interval']})"


def with_tables(text: str) -> str:
    text = NUMBER.sub(lambda found: f"{found[1]}{number(found[2], found[3])}{found[4]}", text)
    return TABLE.sub(lambda found: f"{found[1]}{table(found[2])}{found[3]}", text)


def test_readme_has_the_tables_of_notebook_04():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(TABLE.findall(text)) == 2 and len(NUMBER.findall(text)) == 5 and with_tables(text) == text


@pytest.mark.parametrize("name", [(preset, seed) for preset in PRESETS for seed in PRESETS[preset].seeds], ids=str)
def test_stored_runs_are_what_their_presets_say(name):
    preset, seed = name
    folder = RUNS / run_name(preset, seed)
    run = load_run(folder)
    check_same(folder, run.config, PRESETS[preset].config.changed(seed=seed))
    assert run.info["finished"] and run.log.examples.iloc[-1] == run.info["examples"]
    assert all(path.stat().st_size < 10e6 for path in folder.glob("model*"))


def test_the_half_trained_5x5_model_is_the_trained_one_on_its_way():
    half, whole = (load_run(name) for name in ("eigenvectors-5x5-half", "eigenvectors-5x5"))
    assert half.config == whole.config
    assert not half.info["finished"] and half.info["examples"] < whole.info["examples"]
    pd.testing.assert_frame_equal(half.log, whole.log[: len(half.log)], check_dtype=False)  # 0 and 0.0


def test_conda_and_binder_take_the_requirements():
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert pins[-1] == "-e ." and all("==" in pin for pin in pins[:-1])
    assert "- -r requirements.txt" in (ROOT / "environment.yml").read_text(encoding="utf-8")
    torch = next(pin for pin in pins if pin.startswith("torch==")).replace("torch==", "- pytorch-cpu=")
    assert torch in (ROOT / ".binder" / "environment.yml").read_text(encoding="utf-8")
    assert "pip install -r requirements.txt" in (ROOT / ".binder" / "postBuild").read_text(encoding="utf-8")


def test_what_the_library_imports_is_declared():
    """In pyproject.toml, for `pip install .`; submitit, which only Slurm needs, among its extras."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split("[>=]", line)[0] for line in about["dependencies"]}
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "lib").rglob("*.py")]
    imported = {
        name for text in texts for name in re.findall(r"^ *(?:from|import) (\w+)[\w.]*(?: import|$| as)", text, re.M)
    }
    names = {"sklearn": "scikit-learn", "IPython": "ipython", "PIL": "pillow"}
    imported = {names.get(name, name) for name in imported - sys.stdlib_module_names}
    assert imported == declared | {"submitit"}


def test_imports_run_one_way():
    """A room imports itself, the modules beside the rooms, and rooms before it."""
    library = ROOT / "lib" / "mathtransformer"
    rooms = ["data", "model", "evaluation", "training", "analysis", "tools"]
    modules = [path.stem for path in library.glob("*.py")]
    found = 0
    for path in library.glob("*/*.py"):
        allowed = rooms[: rooms.index(path.parent.name)]
        for source, names in re.findall(r"^ *from \.\.([\w.]*) import (\w+)", path.read_text(encoding="utf-8"), re.M):
            room = source.split(".")[0] or names
            assert room in allowed or room in modules, f"{path} imports {room}"
            found += 1
    assert found > 40


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 10


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_saved_as_run(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert max(len("".join(cell["source"]).splitlines()) for cell in code) <= 25
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs and not any(o["output_type"] == "error" or o.get("name") == "stderr" for o in outputs)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    saved = re.findall(r'save\(figure, (?:PREFIX \+ )?"(\w+)"', "".join("".join(cell["source"]) for cell in code))
    assert all((ROOT / "figures" / f"{name}.png").exists() for name in saved)
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    assert saved and len(shown) >= len(saved)


def test_a_figure_is_replaced_unless_it_is_to_be_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(plotting, "FIGURES", tmp_path / "figures")
    path = tmp_path / "figures" / "fig.png"
    contents = []
    for size, again in ((1, False), (2, False), (2, True)):
        plotting.save(Figure((size, size)), "fig", replace=again)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_other_choices_do_not_replace_what_is_tracked():
    """In the cells of what a reader may change: as they are, figures have their own names, and else others."""
    changed = 0
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        cell = next((text for cell in cells if "PREFIX =" in (text := "".join(cell["source"]))), None)
        for name, value in re.findall(r"^(\w+) = (\d[\d_]*|\[.+\])(?:  #.*)?$", cell or "", re.M):
            if name == "USUAL":
                continue
            names = {"BLUE": 0, "ORANGE": 1, "GREEN": 2, "tempfile": tempfile}
            exec(cell, names)
            assert names["PREFIX"] == ""
            exec(re.sub(rf"^{name} = .*$", f"{name} = [{value}][0] * 2 or [0]", cell, flags=re.M), names)
            assert names["PREFIX"] != "", (path.stem, name)
            changed += 1
    assert changed > 10


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_say_how_to_install_the_library(path, monkeypatch):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert [cell["cell_type"] for cell in cells[:2]] == ["markdown", "code"]
    monkeypatch.setitem(sys.modules, "mathtransformer", None)
    with pytest.raises(ModuleNotFoundError, match="run `make setup`"):
        exec("".join(cells[1]["source"]), {})


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(links) >= 8
    assert [link for link in links if not (ROOT / link).exists()] == []


if __name__ == "__main__":
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(with_tables(text), encoding="utf-8")
