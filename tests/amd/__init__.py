"""Tests on an AMD GPU."""
