"""Run Triton-compiled GPU kernels straight through the driver API."""
