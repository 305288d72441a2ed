"""mT5 (T5 1.1 with a 250,112-row vocabulary) in Flax linen."""
