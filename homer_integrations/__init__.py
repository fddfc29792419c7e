"""Wrappers for pipelines; each is a module of its own and needs an extra of its own."""
