"""What ``nox -s matrix`` runs: every release of Triton on the same kernels, one environment each."""
