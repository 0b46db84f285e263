"""Investigate: what a kernel died of, at which line, with which operands, and what to try."""
