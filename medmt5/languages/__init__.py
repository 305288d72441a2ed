"""The languages medmt5 reads: one TOML file each, so that adding a language adds a file and changes no code."""

from medmt5.languages.language import FORMATS, Language, Quality, Source, codes, load, parse

__all__ = ["FORMATS", "Language", "Quality", "Source", "codes", "load", "parse"]
