"""SeqIO tasks. Importing this package registers them; nothing is read or looked up before one is opened."""

import os

# TensorFlow, used here on the CPU alone, complains of missing GPUs; it reads this when it is first imported. A few
# lines
# that it writes before its logging is set up remain.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from medmt5.tasks import pretraining, sequence_labelling

__all__ = ["pretraining", "sequence_labelling"]
