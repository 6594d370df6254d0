"""The options of a model: every difference between the two recipes, `paper` and `fast`, is one of them.

===============  ==============================================  ==========================================
option           `paper` (as published)                          `fast` (departures that pay on a CPU)
===============  ==============================================  ==========================================
embedding        "FP15", or another encoding: one learned vector "numeric": sines, cosines and logarithm of
                 for each word                                   the number, through one linear layer
output           "P1000" (sign, mantissa, exponent), or another  "number": one position a number, a head for
                 encoding: one position a token                  sign and exponent, then one for the mantissa
positions        "sequence": learned, by place in the sequence   "row-column": learned, by row and by column,
                                                                 so that weights carry over to other sizes
triangle         False: all entries are read                     True: a symmetric matrix is read as its
                                                                 upper triangle
canonical_input  False: M is read as it is                       True: of all matrices that differ by the order and
                                                                 signs of rows and columns (inversion: or by
                                                                 transposition), one is read, and the answer is
                                                                 changed back (`Task.canonical`)
canonical_shift  False                                           False, too. True: of a symmetric matrix M - cI is
                                                                 read, c being its mean eigenvalue, which is added
                                                                 to the eigenvalues afterwards
block            "post-norm": LayerNorm, also of what is         "pre-norm": RMSNorm, squared ReLU, no biases,
                 embedded, ReLU, biases; cross-attention asks    blocks that start as the identity
                 with the layer's input
query_key_norm   False                                           False, too. True: queries and keys are brought to
                                                                 one size, times a learned number a head, before
                                                                 they are compared, so that attention stays soft
                                                                 enough to be trained (LOG.md: better at 5x5)
cotrain          False: the solution is written, no more         True: models of eigenvalues learn to write the
                                                                 eigenvectors after them (`Task.solve_richer`),
                                                                 and are asked for the eigenvalues only
components       0: the solution is all that is learned from     0, too. Above, the weight of a second loss, for the
                                                                 encoder to show at each entry of M what the solution
                                                                 is made of (`Task.components`), by one linear layer.
                                                                 It serves in training only: predictions do without
decoding         "greedy": the likeliest token                   "median": of the distribution of each number
                                                                 (output="number" only)
===============  ==============================================  ==========================================

Both see three significant digits of each number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..checks import check_name, whole_number
from ..data.encodings import ENCODINGS

CHOICES = {
    "embedding": ("numeric", *ENCODINGS),
    "output": ("number", *ENCODINGS),
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
    decoder_width: int = 0  # 0: as the encoder
    decoder_heads: int = 0
    embedding: str = "numeric"
    output: str = "number"
    positions: str = "row-column"
    triangle: bool = True
    canonical_input: bool = True
    canonical_shift: bool = False
    block: str = "pre-norm"
    query_key_norm: bool = False
    components: float = 0.0
    cotrain: bool = True
    decoding: str = "median"

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            check_name(name, getattr(self, name), allowed)
        for name in ("width", "heads", "encoder_layers", "decoder_layers"):
            whole_number(name, getattr(self, name), 1, 10_000)
        if not 0 <= self.components < math.inf:
            raise ValueError(f"components must be a weight, 0 or more, got {self.components}")
        for name in ("decoder_width", "decoder_heads"):
            whole_number(name, getattr(self, name), 0, 10_000)
        for width, heads in ((self.width, self.heads), self.decoder_size):
            if width % heads:
                raise ValueError(f"width {width} is not a multiple of heads {heads}")
        if self.output != "number" and self.positions == "row-column":
            raise ValueError(f"output={self.output!r} writes tokens: it needs positions='sequence'")
        if self.components and self.embedding in ("P10", "P1000", "B1999"):
            raise ValueError(f"components are shown at one position a number: not with embedding={self.embedding!r}")

    @property
    def decoder_size(self) -> tuple[int, int]:
        """Width and heads."""
        return self.decoder_width or self.width, self.decoder_heads or self.heads

    @property
    def reads(self) -> str:
        """The encoding through which matrices are read."""
        return "FP15" if self.embedding == "numeric" else self.embedding


PAPER = ModelOptions(
    embedding="FP15",
    output="P1000",
    positions="sequence",
    triangle=False,
    canonical_input=False,
    block="post-norm",
    cotrain=False,
    decoding="greedy",
)
