"""What a warp's access costs: the sectors of global memory and the wavefronts of shared memory that it takes.

The model is that of NVIDIA's documents (CUDA C++ Best Practices Guide, "Coalesced Access to Global Memory" and "Shared
Memory and Memory Banks"; Nsight Compute, "Memory Tables"): a warp's instruction is one request, which moves whole
sectors of 32 bytes of global memory; shared memory has 32 banks of 4 bytes, each of which serves one word at a time, to
all lanes that want it. Accesses of 8 bytes are served a half warp at a time, those of 16 bytes a quarter.
"""

from __future__ import annotations

import numpy as np

from trlaunch.emulator.instructions.base import Array

__all__ = ["BANKS", "SECTOR", "bank_wavefronts", "sectors_of"]

SECTOR = 32
BANKS = 32
_WORD = 4
_NOWHERE = np.iinfo(np.int64).max


def _distinct(items: Array, active: Array) -> tuple[Array, Array]:
    """Sorted items of each row, and which are the first of their kind and active."""
    ordered = np.sort(np.where(active, items, _NOWHERE), axis=1)
    first = np.ones(ordered.shape, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return ordered, first & (ordered != _NOWHERE)


def sectors_of(address: Array, active: Array, size: int) -> tuple[Array, Array]:
    """Sectors that requests move, and the bytes of them that somebody wanted.

    Parameters
    ----------
    address : ndarray of int64, shape (n, lanes)
        Of each lane of n requests, multiples of `size`.
    active : ndarray of bool, shape (n, lanes)
    size : int
        Bytes a lane, at most 32.

    Returns
    -------
    sectors, useful : ndarray of int64, shape (n,)
        Distinct sectors; distinct bytes.
    """
    _, first = _distinct(address // SECTOR, active)
    _, wanted = _distinct(address // size, active)
    return np.asarray(first.sum(axis=1)), np.asarray(wanted.sum(axis=1) * size)


def bank_wavefronts(address: Array, active: Array, size: int) -> tuple[Array, Array, Array]:
    """Wavefronts that requests to shared memory take.

    Parameters
    ----------
    address : ndarray of int64, shape (n, lanes)
        Of each lane of n requests, multiples of `size`. ``ldmatrix`` has an address per row of 16 bytes.
    active : ndarray of bool, shape (n, lanes)
    size : int
        Bytes a lane: 1, 2, 4, 8 or 16.

    Returns
    -------
    wavefronts, ideal, degree : ndarray of int64, shape (n,)
        What the request takes; what it would take without conflicts; the most words that one bank had to serve one
        after the other.
    """
    words = max(size // _WORD, 1)
    together = min(BANKS // words, address.shape[1])
    n = address.shape[0]
    phases = address.shape[1] // together
    first_word = address.reshape(n * phases, together) // _WORD
    wanted = (first_word[:, :, None] + np.arange(words)).reshape(n * phases, -1)
    lanes = np.repeat(active.reshape(n * phases, together), words, axis=1)
    ordered, first = _distinct(wanted, lanes)
    rows, _ = np.nonzero(first)
    served = np.bincount(rows * BANKS + ordered[first] % BANKS, minlength=n * phases * BANKS)
    worst = served.reshape(n, phases, BANKS).max(axis=2)
    return worst.sum(axis=1), (worst > 0).sum(axis=1), worst.max(axis=1, initial=0)
