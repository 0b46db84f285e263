"""Dump: values captured from inside a kernel through an injected pointer parameter."""
