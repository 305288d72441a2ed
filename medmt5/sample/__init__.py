"""A small data set written for medmt5: raw and labelled medical text in four languages, from templates and a seed.

It takes the place of published sets where those cannot be had: tests, the tutorial, the first run on a laptop.
"""
