"""Tokens between SeqIO and training: what a task yields is remembered in a token store, and read from it as batches.

`store` writes and reads, `mixture` says which stores at which rates, `span_corruption` is the pre-training objective,
`loader` makes batches.
"""
