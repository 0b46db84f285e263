"""Autotuning."""
