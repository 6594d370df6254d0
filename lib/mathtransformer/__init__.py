"""Transformers that solve linear algebra problems, written as tokens: data, model, training, measuring.

Rooms, each of which imports only those before it: `data` (encodings, matrices, tasks), `model`, `evaluation` (what a
model answers, and how good that is), `training`, `analysis` (stored answers, plots), `tools` (queue, track, bench).
"""

from importlib import import_module

# Imported when first used: the command line and its errors need not wait for PyTorch.
PUBLIC = {
    "encoding": "data.encodings",
    "sample": "data.tasks",
    "properties": "evaluation.metrics",
    "load_run": "training.runs",
    "train": "training.begin",
    "judged": "analysis.predictions",
}
__all__ = sorted(PUBLIC)


def __getattr__(name: str):
    if name in PUBLIC:
        return getattr(import_module(f".{PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*globals(), *__all__]
