"""Kernels, ways to launch them and the C loop for ``benchmarks/launch_latency.py``."""
