"""The processes of `torchrun`, which train one model together.

Under `torchrun --nproc-per-node=K -m mathtransformer train PRESET` each of K processes takes its own K-th of every
batch, PyTorch's DistributedDataParallel averages the gradients, and the first process alone looks at the clock,
evaluates and writes. Without torchrun all this does nothing.
"""

from __future__ import annotations

import os
import time

import torch
import torch.distributed as dist
from torch import nn


class Group:
    """The processes that train one model together: `rank` of `size`; a group of one outside torchrun."""

    def __init__(self, rank: int = 0, size: int = 1, device: str = "cpu"):
        self.rank, self.size, self.device = rank, size, device

    @classmethod
    def join(cls, device: str) -> Group:
        """Join the processes that torchrun started. device: "cpu" (gloo), "cuda" (nccl, one GPU a process), or "auto".

        ValueError for "cuda" where there is none.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device cuda: PyTorch sees no CUDA device here; use --device cpu")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
            return cls(device=device)
        if device == "cuda":
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        store, rank, size = next(dist.rendezvous("env://"))
        # torchrun may keep one store over all restarts: without a prefix the addresses of dead processes stand in it.
        store = dist.PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        dist.init_process_group(
            "nccl" if device.startswith("cuda") else "gloo", store=store, rank=rank, world_size=size
        )
        return cls(rank, size, device)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """The rows of every batch that this process trains on. Raises ValueError if they cannot be dealt evenly."""
        if batch % self.size:
            raise ValueError(f"batch {batch} cannot be dealt evenly to {self.size} processes")
        rows = batch // self.size
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the group."""
        if self.size == 1:
            return model
        return nn.parallel.DistributedDataParallel(model, forward_sync_buffers=False)  # buffers are constant here

    def largest(self, *numbers: float) -> list[float]:
        """The largest that any process gave, number by number."""
        return self.reduce(numbers, dist.ReduceOp.MAX)

    def mean(self, number: float) -> float:
        return self.reduce([number / self.size], dist.ReduceOp.SUM)[0]

    def leave(self) -> None:
        """Together: a process that ends while another still talks to it aborts that one."""
        if self.size > 1:
            self.largest(0)
            dist.destroy_process_group()
            time.sleep(1)  # gloo's threads end a little later: without this 7 of 54 trainings aborted at exit (LOG.md)

    def reduce(self, numbers, operation) -> list[float]:
        if self.size == 1:
            return list(numbers)
        shared = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(shared, operation)
        return shared.tolist()
