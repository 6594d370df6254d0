"""How the loss is computed fast: in which precision, without numbers next to zero, and by PyTorch's compiler."""

from __future__ import annotations

import functools
import logging
import shutil
import timeit
import warnings
from contextlib import contextmanager

import torch
from torch import nn

from ..interrupts import behind

log = logging.getLogger("mathtransformer")


def product_seconds(dtype: torch.dtype) -> float:
    """Best time of a matrix product of the size that a layer of a training step has."""
    a, b = torch.ones(1024, 128, dtype=dtype), torch.ones(128, 512, dtype=dtype)
    return min(timeit.repeat(lambda: a @ b, number=1, repeat=10))


@functools.cache
def bfloat16_is_fast() -> bool:
    """Measured, since a processor may have bfloat16 and be slower with it: a Xeon took twice as long (LOG.md)."""
    return 1.5 * product_seconds(torch.bfloat16) < product_seconds(torch.float32)


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """precision: TrainOptions.precision."""
    return precision == "bfloat16" or (precision == "auto" and (device.type == "cuda" or bfloat16_is_fast()))


@contextmanager
def numbers_next_to_zero_as_zero():
    """Some processors take a hundred times as long for each number below 1e-38, such as the probabilities of a good
    model: a 5x5 step took 250 ms instead of 125 after 370,000 examples (LOG.md). Elsewhere such numbers are kept."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def last_line(error: BaseException) -> str:
    """The last line of an error's text that says something: a compiler's own message, not what surrounds it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "error:" in line.lower()]
    return f"{type(error).__name__}: {(told or lines or ['no message'])[-1]:.300}"


def compiled(model: nn.Module, batch: list[torch.Tensor], bfloat16: bool) -> nn.Module | None:
    """The model, compiled and tried on a batch; None, with a warning, where the compiler fails.

    To be called before the model is wrapped for several processes: a process whose compiler fails must not leave the
    others waiting for its gradients.
    """
    if shutil.which("g++") is None and batch[0].device.type == "cpu":
        return None
    try:
        warnings.filterwarnings("ignore", message="Error detected in")  # of PyTorch, where a signal cuts it short
        function = torch.compile(model)
        with torch.autocast(batch[0].device.type, torch.bfloat16, enabled=bfloat16):
            loss = function(*batch)
        loss.backward()
        return function
    except Exception as error:  # the compiler's own errors have no common class
        if stop := behind(error):
            raise stop from None
        log.warning("torch.compile failed (%s): going on without it", last_line(error))
        return None
    finally:
        model.zero_grad()
