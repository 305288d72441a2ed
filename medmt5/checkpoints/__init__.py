"""Orbax checkpoints that are checked when they are read."""
