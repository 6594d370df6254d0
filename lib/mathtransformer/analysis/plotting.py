"""One look for every figure, and one way to save them."""

from __future__ import annotations

import io
from functools import partial

import seaborn as sns
from matplotlib.figure import Figure
from PIL import Image

from .. import files
from ..paths import FIGURES

# Okabe and Ito's palette, told apart in every common form of colour blindness.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"]
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = COLOURS


def png(figure: Figure, **options) -> bytes:
    """A figure as a PNG file of 256 colours, a third as large as one of all; `options` are those of `savefig`."""
    image, small = io.BytesIO(), io.BytesIO()
    figure.savefig(image, **options)
    Image.open(image).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def style() -> None:
    """Set the look of all figures of a notebook, and have it show them, whatever MPLBACKEND says."""
    from IPython import get_ipython

    if (shell := get_ipython()) is not None:
        shell.run_line_magic("matplotlib", "inline")
        shell.display_formatter.formatters["image/png"].for_type(Figure, partial(png, bbox_inches="tight"))
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
        files.write({path: png(figure, dpi=130)})
