"""Decoding on the device: label search held to its rules by an automaton. Ids in, ids and choices out; no tokenizer."""
