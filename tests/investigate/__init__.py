"""Tests of `trlaunch.investigate`."""
