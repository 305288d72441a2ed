"""Medical mT5: multilingual text-to-text models for medicine (arXiv 2404.07613), from raw text to labelled text."""

__version__ = "0.1.0"
