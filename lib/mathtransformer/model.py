"""The encoder-decoder transformer: it reads an encoded matrix and writes an encoded solution.

Two recipes share this file; every difference between them is an option of `ModelOptions`:

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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .encodings import encoding
from .layers import Layer, NumberEmbedding, NumberHead
from .problems import MAX_SIZE, get_task


@dataclass(frozen=True)
class ModelOptions:
    """Architecture of one model; the defaults are the `fast` recipe."""

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
        choices = {
            "embedding": ("numeric", "token"),
            "output": ("number", "P1000"),
            "positions": ("row-column", "sequence"),
            "block": ("pre-norm", "post-norm"),
            "decoding": ("median", "greedy"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(allowed)}")
        for name in ("width", "heads", "encoder_layers", "decoder_layers"):
            if not 1 <= getattr(self, name) <= 10_000:
                raise ValueError(f"{name} must be from 1 to 10,000, got {getattr(self, name)}")
        if not 0 <= self.components < math.inf:
            raise ValueError(f"components must be a weight, 0 or more, got {self.components}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.output == "P1000" and self.positions == "row-column":
            raise ValueError("output='P1000' writes three tokens a number: it needs positions='sequence'")


class Transformer(nn.Module):
    """Encoder-decoder for one task and size n: FP15 ids of matrices in, ids of the solution out.

    With positions="row-column" no weight depends on n, so weights carry over to other sizes as they are. With
    canonical_input the ids are those of canonical matrices: `batches` and `evaluation.answer` see to that.
    """

    def __init__(self, task: str, size: int, options: ModelOptions):
        super().__init__()
        self.size, self.options = size, options
        self.task = task = get_task(task)
        self.asked = task.target_shape(size)  # what a prediction is
        self.shape = task.richer_shape(size) if options.cotrain else self.asked  # what is learned: it begins with that
        self.triangle = options.triangle and task.symmetric
        self.numbers = options.output == "number"
        self.written = encoding("FP15" if self.numbers else "P1000")
        width, symbols = options.width, len(encoding("FP15").vocabulary)
        numeric = options.embedding == "numeric"
        # Token embeddings come with the dimension tokens V1 to V20 that open a sequence.
        self.read = NumberEmbedding(width) if numeric else nn.Embedding(symbols + MAX_SIZE, width)
        if self.numbers:
            self.feed = NumberEmbedding(width) if numeric else nn.Embedding(symbols, width)
            self.start = nn.Parameter(torch.zeros(width))
            self.head = NumberHead(width, options.decoding)
        else:  # P1000, then V1 to V21, start and end; the matrix also serves, transposed, as the output layer
            self.feed = nn.Embedding(len(self.written.vocabulary) + MAX_SIZE + 3, width)
        self.components = nn.Linear(width, MAX_SIZE) if options.components else None
        if options.positions == "row-column":
            places = (MAX_SIZE, MAX_SIZE, MAX_SIZE + 1, MAX_SIZE)
        else:
            places = (size * size + 2, 3 * math.prod(self.shape) + 3)
        self.places = nn.ModuleList([nn.Embedding(place, width) for place in places])
        for table in [self.read, self.feed, *self.places]:
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=width**-0.5)
        self.encoder = nn.ModuleList([Layer(options) for _ in range(options.encoder_layers)])
        self.decoder = nn.ModuleList([Layer(options, cross=True) for _ in range(options.decoder_layers)])
        pre = options.block == "pre-norm"
        self.norms = nn.ModuleList([nn.RMSNorm(width) if pre else nn.Identity() for _ in range(2)])

    def place(self, rows: Tensor, columns: Tensor, first: int) -> Tensor:
        """(L, width) position vectors; `first` is 0 for what is read and 2 for what is written."""
        if self.options.positions == "row-column":
            return self.places[first](rows) + self.places[first + 1](columns)
        table = self.places[first // 2]
        return table.weight[: len(rows)]

    def entries(self, device) -> tuple[Tensor, ...]:
        """Rows and columns of the entries of M that are read, in order."""
        if self.triangle:
            return torch.triu_indices(self.size, self.size, device=device).unbind(0)
        return torch.cartesian_prod(*[torch.arange(self.size, device=device)] * 2).unbind(1)

    def encode(self, inputs: Tensor) -> Tensor:
        """(B, n, n) FP15 ids -> (B, L, width), L = n(n+1)/2 for a triangle, else n*n; with embedding="token" 2 more."""
        n, (rows, columns) = inputs.shape[-1], self.entries(inputs.device)
        ids = inputs[:, rows, columns]
        if self.options.embedding == "token":
            dimension = self.read.num_embeddings - MAX_SIZE + n - 1
            ids = F.pad(ids, (2, 0), value=dimension)
            rows, columns = F.pad(rows, (2, 0)), F.pad(columns, (2, 0))
        x = self.read(ids) + self.place(rows, columns, 0)
        for layer in self.encoder:
            x = layer(x)
        return self.norms[0](x)

    def sequence(self, targets: Tensor) -> Tensor:
        """(B, *shape, k) ids of the solution -> (B, L) what the decoder writes."""
        flat = targets.flatten(1)
        if self.numbers:
            return flat
        first = len(self.written.vocabulary)
        opening = flat.new_tensor([first + k - 1 for k in self.shape]).expand(len(flat), -1)
        return torch.cat([opening, F.pad(flat, (0, 1), value=self.feed.num_embeddings - 1)], dim=1)

    def written_places(self, device) -> Tensor:
        """(L, width) position vectors of all that is written."""
        if self.options.positions == "sequence":
            length = math.prod(self.shape) if self.numbers else 3 * math.prod(self.shape) + len(self.shape) + 1
            return self.places[1].weight[:length]
        places = torch.arange(math.prod(self.shape), device=device)
        return self.place(places // self.shape[-1], places % self.shape[-1], 2)

    def first_vector(self) -> Tensor:
        return self.start if self.numbers else self.feed.weight[-2]

    def components_loss(self, memory: Tensor, components: Tensor) -> Tensor:
        """Mean squared error of the components (B, n, n, n) as read off the encoder's output at each entry of M."""
        rows, columns = self.entries(memory.device)
        shown = self.components(memory[:, -len(rows) :])[..., : self.size]
        return (shown.float() - components[:, rows, columns]).square().mean()

    def forward(self, inputs: Tensor, targets: Tensor, components: Tensor | None = None) -> Tensor:
        """The loss: mean cross-entropy in nats, of a number for output="number", of a token for output="P1000".

        With `components`, ModelOptions.components times their squared error is added.
        """
        memory, sequence = self.encode(inputs), self.sequence(targets)
        first = self.first_vector().expand(len(sequence), 1, -1)
        x = torch.cat([first, self.feed(sequence[:, :-1])], dim=1) + self.written_places(inputs.device)
        mask = torch.full((x.shape[1], x.shape[1]), -math.inf, device=x.device).triu(1)
        for layer in self.decoder:
            x = layer(x, memory, mask)
        x = self.norms[1](x)
        if self.numbers:
            loss = self.head.loss(x, sequence)
        else:
            loss = F.cross_entropy(F.linear(x, self.feed.weight).float().flatten(0, 1), sequence.flatten())
        if components is None:
            return loss
        return loss + self.options.components * self.components_loss(memory, components)

    @torch.no_grad()
    def generate(self, inputs: Tensor) -> Tensor:
        """Write step by step, with keys and values cached: (B, n, n) FP15 ids -> (B, *asked, k) ids."""
        memory = self.encode(inputs)
        caches = [{"cross": layer.cross.keys_values(memory)} for layer in self.decoder]
        places, numbers = self.written_places(inputs.device), math.prod(self.asked)
        if self.numbers:
            places = places[:numbers]
        x, ids = self.first_vector().expand(len(inputs), 1, -1), []
        for place in places:
            x = x + place
            for layer, cache in zip(self.decoder, caches, strict=True):
                x = layer.step(x, cache)
            x = self.norms[1](x)
            ids.append(self.head.choose(x) if self.numbers else F.linear(x, self.feed.weight).argmax(-1))
            x = self.feed(ids[-1])
        ids = torch.cat(ids, dim=1)
        if not self.numbers:  # dimension tokens and end: a wrong one shifts what follows, which then decodes to NaN
            ids = ids[:, len(self.shape) : -1]
        tokens = self.written.tokens_per_number
        return ids[:, : numbers * tokens].reshape(len(inputs), *self.asked, tokens)
