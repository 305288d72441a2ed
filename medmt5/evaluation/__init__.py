"""Scores of labelled spans, the files they are kept in, and how they are shown: tables, marked text, an HTML report."""
