"""SeqIO preprocessors: from what a data set yields to the ids a model sees."""
