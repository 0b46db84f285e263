"""Bundles and headers."""
