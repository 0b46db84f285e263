"""Tests that need an NVIDIA GPU; `README.md` says how they are run."""
