"""Sweeps: the space that is searched, the study that is kept, and what is told of it."""
