"""Labelled text: spans, tags, words, sentences, the tagged form that models read and write, and formats of data."""
