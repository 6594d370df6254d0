"""One look for every figure, and one way to save them."""

from __future__ import annotations

import seaborn as sns
from matplotlib.figure import Figure

from ..paths import FIGURES

# Okabe and Ito's palette, told apart in every common form of colour blindness.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"]
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = COLOURS


def style() -> None:
    """Set the look of all figures of a notebook, and have it show them, whatever MPLBACKEND says."""
    from IPython import get_ipython

    if get_ipython() is not None:
        get_ipython().run_line_magic("matplotlib", "inline")
    look = {"figure.dpi": 100, "figure.constrained_layout.use": True, "legend.frameon": False}
    look |= {"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": "medium"}
    sns.set_theme(style="ticks", palette=COLOURS, rc=look)


def save(figure: Figure, name: str, replace: bool = True) -> None:
    """Save a figure as figures/NAME.png, with the same bytes whenever it shows the same (no date, no version).

    replace: False keeps one that is there, for figures of a training just made: another processor gives other bits.
    """
    FIGURES.mkdir(exist_ok=True)
    path = FIGURES / f"{name}.png"
    if replace or not path.exists():
        figure.savefig(path, dpi=130, metadata={"Software": None})
