"""The options of a model: every difference between the two recipes, `paper` and `fast`, is one of them.

===============  ==============================================  ==========================================
option           `paper` (as published)                          `fast` (departures that pay on a CPU)
===============  ==============================================  ==========================================
embedding        "token": one learned vector for each of the     "numeric": sines, cosines and logarithm of
                 29,000 FP15 symbols                             the number, through one linear layer
output           "P1000": sign, mantissa, exponent, one          "number": one position a number, a head for
                 position each                                   sign and exponent, then one for the mantissa
positions        "sequence": learned, by place in the sequence   "row-column": learned, by row and by column,
                                                                 so that weights carry over to other sizes
triangle         False: all entries are read                     True: a symmetric matrix is read as its
                                                                 upper triangle
canonical_input  False: M is read as it is                       True: of all matrices that differ by the order and
                                                                 signs of rows and columns (inversion: or by
                                                                 transposition), one is read, and the answer is
                                                                 changed back (`Task.canonical`)
block            "post-norm": LayerNorm, ReLU, biases            "pre-norm": RMSNorm, squared ReLU, no biases,
                                                                 blocks that start as the identity
components       0: the solution is all that is learned from     5: weight of a second loss, for the encoder to show
                                                                 at each entry of M what the solution is made of
                                                                 (`Task.components`), by one linear layer. It serves
                                                                 in training only: predictions do without
cotrain          False: the solution is written, no more         False. True: models of eigenvalues learn to write the
                                                                 eigenvectors after them (`Task.solve_richer`),
                                                                 and are asked for the eigenvalues only
decoding         "greedy": the likeliest token                   "median": of the distribution of each number
                                                                 (output="number" only)
===============  ==============================================  ==========================================

Both read FP15 token ids, so both see the same three significant digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..checks import choose, whole_number

CHOICES = {
    "embedding": ("numeric", "token"),
    "output": ("number", "P1000"),
    "positions": ("row-column", "sequence"),
    "block": ("pre-norm", "post-norm"),
    "decoding": ("median", "greedy"),
}


@dataclass(frozen=True)
class ModelOptions:
    """Architecture of one model; the defaults are the `fast` recipe. ValueError for options that do not go together."""

    width: int = 128
    heads: int = 8
    encoder_layers: int = 4
    decoder_layers: int = 1
    embedding: str = "numeric"
    output: str = "number"
    positions: str = "row-column"
    triangle: bool = True
    canonical_input: bool = True
    block: str = "pre-norm"
    components: float = 5.0
    cotrain: bool = False
    decoding: str = "median"

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            choose(name, getattr(self, name), allowed)
        for name in ("width", "heads", "encoder_layers", "decoder_layers"):
            whole_number(name, getattr(self, name), 1, 10_000)
        if not 0 <= self.components < math.inf:
            raise ValueError(f"components must be a weight, 0 or more, got {self.components}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.output == "P1000" and self.positions == "row-column":
            raise ValueError("output='P1000' writes three tokens a number: it needs positions='sequence'")


PAPER = ModelOptions(
    embedding="token",
    output="P1000",
    positions="sequence",
    triangle=False,
    canonical_input=False,
    block="post-norm",
    components=0.0,
    decoding="greedy",
)
