"""Decoding on the device: label search held to its rules by an automaton, and free. Ids in, ids out; no tokenizer."""
