"""Kernels for ``benchmarks/levels.py``."""
