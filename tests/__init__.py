"""Tests of trlaunch."""
