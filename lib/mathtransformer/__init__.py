"""Transformers that solve linear algebra problems, written as tokens: data, model, training, measuring."""

from .encodings import encoding
from .problems import sample
from .runs import load_run

__all__ = ["encoding", "load_run", "sample"]
