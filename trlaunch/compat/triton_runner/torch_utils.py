"""``triton_runner.torch_utils``: sizes of padded tensors and of grids, and torch's device."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

from trlaunch.devices import default_device

__all__ = [
    "get_active_torch_device",
    "get_grid_dim",
    "get_n_elements_with_grid",
    "get_pad_n_elements",
    "pad_2d_to_block_shape",
]


def get_active_torch_device() -> Any:
    """``torch.device`` of the GPU a launch goes to, ``cpu`` where that is the emulator."""
    torch: Any = importlib.import_module("torch")
    device = default_device()
    return torch.device("cpu" if device.driver == "emulator" else str(device))


def get_grid_dim(tensor_shape: Sequence[int], block_shape: Sequence[int]) -> tuple[int, ...]:
    """Blocks along each axis."""
    return tuple(-(-size // block) for size, block in zip(tensor_shape, block_shape, strict=True))


def get_pad_n_elements(tensor: Any, block_shape: Sequence[int]) -> int:
    """Elements of a tensor that is padded to whole blocks."""
    return get_n_elements_with_grid(block_shape, get_grid_dim(tensor.shape, block_shape))


def get_n_elements_with_grid(block_shape: Sequence[int], grid: Sequence[int]) -> int:
    """Elements of all blocks of a grid."""
    return math.prod(block_shape) * math.prod(grid)


def pad_2d_to_block_shape(tensor: Any, block_shape: Sequence[int]) -> Any:
    """A torch tensor of two axes padded with zeros to whole blocks, as float32."""
    torch: Any = importlib.import_module("torch")
    rows, columns = (-size % block for size, block in zip(tensor.shape, block_shape, strict=True))
    return torch.nn.functional.pad(tensor, (0, columns, 0, rows)).to(torch.float32)
