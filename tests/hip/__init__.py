"""Tests of the AMD half."""
