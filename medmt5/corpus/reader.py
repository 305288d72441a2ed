"""The raw files of a source as datatrove documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.readers.base import BaseDiskReader
from lxml import etree

from medmt5.corpus import clinicaltrials, mediawiki, medline, text
from medmt5.corpus.compression import open_stream
from medmt5.corpus.document import Dropped, Format, clean
from medmt5.errors import InputError

FORMATS: Mapping[str, Format] = {
    "medline_xml": medline.read,
    "ctgov_json": clinicaltrials.read,
    "mediawiki_xml": mediawiki.read,
    "text": text.read_text,
    "jsonl": text.read_jsonl,
}


class Reader(BaseDiskReader):
    """Reads `files` (below `data_dir`, plain or gz, bz2, xz, zst) in the format named, and cleans their text.

    A damaged file raises InputError with its name and line; entries without text are counted by reason.

    Args:
      on_file: called after each file, for progress.
    """

    name = "Reader"

    def __init__(self, data_dir: Path, files: Sequence[str], format: str, lang: str, on_file: Callable[[], None]):
        super().__init__(str(data_dir))
        self.data_dir, self.files = data_dir, list(files)
        self.read_format, self.lang, self.on_file = FORMATS[format], lang, on_file

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        yield from self.read_files_shard(self.files[rank::world_size])

    def read_file(self, filepath: str) -> DocumentsPipeline:
        path = self.data_dir / filepath
        try:
            with open_stream(path) as stream:
                for entry in self.read_format(stream, filepath, self.lang):
                    if isinstance(entry, Dropped):
                        self.stat_update(f"dropped_{entry.reason}")
                    elif not (cleaned := clean(entry.text)):
                        self.stat_update("dropped_no_text")
                    else:
                        meta = {key: clean(value) for key, value in entry.meta.items()}
                        yield Document(cleaned, clean(entry.id), metadata=meta)
        except etree.XMLSyntaxError as error:
            raise InputError(f"{path}:{max(error.lineno, 1)}: not well-formed XML: {error.msg}") from error
        self.on_file()
