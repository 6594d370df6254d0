"""One look for every figure, and one way to save them."""

from __future__ import annotations

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from ..paths import FIGURES

# Okabe and Ito's palette, told apart in every common form of colour blindness.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000",
)  # fmt: skip
COLOURS = [BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK]


def style() -> None:
    """Set the look of all figures of a notebook, and have it show them, whatever MPLBACKEND says."""
    from IPython import get_ipython

    if get_ipython() is not None:
        get_ipython().run_line_magic("matplotlib", "inline")
    sns.set_theme(context="notebook", style="ticks", palette=COLOURS)
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "legend.frameon": False,
        }
    )


def save(figure: Figure, name: str, replace: bool = True) -> None:
    """Save a figure as figures/NAME.png, with the same bytes whenever it shows the same (no date, no version).

    replace: False keeps one that is there, for figures of a training just made: another processor gives other bits.
    """
    FIGURES.mkdir(exist_ok=True)
    path = FIGURES / f"{name}.png"
    if replace or not path.exists():
        figure.savefig(path, dpi=130, metadata={"Software": None})
