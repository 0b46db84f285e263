"""Tests of the NVIDIA half."""
