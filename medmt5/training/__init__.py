"""Losses, optimizers, the train step and the loop."""
