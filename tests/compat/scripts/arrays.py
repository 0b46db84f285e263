"""Tensors for the scripts: torch's on a GPU, NumPy's on the emulator, trlaunch's on a GPU without torch."""

from __future__ import annotations

import numpy as np

import trlaunch
from trlaunch.devices import default_device

try:
    import torch
except ImportError:
    torch = None

__all__ = ["rand", "to_numpy", "zeros"]


def rand(n):
    return _tensor(np.random.default_rng(0).random(n, dtype=np.float32))


def zeros(n):
    return _tensor(np.zeros(n, np.float32))


def to_numpy(tensor):
    if isinstance(tensor, np.ndarray):
        return tensor
    return tensor.numpy() if isinstance(tensor, trlaunch.DeviceArray) else tensor.cpu().numpy()


def _tensor(values):
    if torch is not None and torch.cuda.is_available():
        return torch.from_numpy(values).cuda()
    return values if default_device().driver == "emulator" else trlaunch.asarray(values)
