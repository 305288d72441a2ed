"""Weights of an mT5 in and out of the formats they are published in. No pickle, no TensorFlow."""
