"""Where SeqIO tasks get their examples: labelled data sets through TFDS, the corpus from its own shards."""
