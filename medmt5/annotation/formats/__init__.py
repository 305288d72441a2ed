"""Readers of labelled corpora: one module a format, each yields `LabelledExample`s and counts what it had to repair."""
