"""What `medmt5 label` does: files of any size, a document a line, in constant memory; killed, it goes on.

`DOCUMENTS_AT_ONCE` documents are read, labelled and written together; which ones does not depend on where a run was
cut, so a run that goes on writes, byte for byte, what an uninterrupted one does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import medmt5
from medmt5.annotation.formats.brat import write_brat
from medmt5.annotation.spans import Span
from medmt5.decoding.label_scores import Scoring
from medmt5.document_labelling import label_documents
from medmt5.errors import InputError
from medmt5.evaluation.marked_text import PAGE_END, PAGE_START, render_paragraph, render_text
from medmt5.labelling import Labeller
from medmt5.progress import progress_bar
from medmt5.resumable_output import ResumableOutput
from medmt5.trained_model import load_trained_model, model_digest

DOCUMENTS_AT_ONCE = 256
logger = logging.getLogger(__name__)


def label_files(
    checkpoint: Path,
    labels: Sequence[str],
    *,
    texts: Sequence[str],
    input_file: Path | None,
    output_file: Path | None,
    output_format: str,
    beam_size: int,
    scoring: Scoring,
    batch_size: int,
    lang: str,
    threshold: float,
    n_best: int,
) -> None:
    """Labels `texts`, else `input_file` (`-` is standard input), else standard input, to `output_file` or standard
    output. An output file that an equal call began is gone on with; see `resumable_output`.
    """
    if texts and input_file:
        raise InputError("give text as arguments or --input, not both")
    if input_file and str(input_file) != "-" and not input_file.is_file():
        raise InputError(
            f"no such file: {input_file}; give a text file with a document a line, or - for standard input"
        )
    model = load_trained_model(checkpoint)
    labeller = Labeller(model, beam_size=beam_size, scoring=scoring, batch_size=batch_size)

    def label(documents: Sequence[str]) -> list[dict[str, Any]]:
        return label_documents(labeller, documents, labels, lang, threshold=threshold, n_best=n_best)

    label([])  # labels and options that do not fit the model are refused before anything is read or written
    # brat counts a carriage return as a character of the file, so it stays there.
    line_end = "\n" if output_format == "brat" else "\r\n"
    documents = iter(texts) if texts else _lines(input_file, line_end)
    labelling = FileLabelling(label, documents, output_format, labels)
    if output_file is None:
        labelling.write_stream(sys.stdout)
        return
    if output_file.exists() and not output_file.is_file():  # a pipe, a device: nothing to go on with, or to replace
        with output_file.open("w", encoding="utf-8") as stream:
            labelling.write_stream(stream)
        return
    facts = {
        "medmt5": medmt5.__version__,
        "model": model_digest(model),
        "labels": list(labels),
        "format": output_format,
        "lang": lang,
        "beam": beam_size,
        "scoring": scoring,
        "batch_size": batch_size,
        "threshold": threshold,
        "n_best": n_best,
    }
    with ResumableOutput(output_file.resolve(), facts) as output:
        labelling.write(output, len(texts) if texts else _count_lines(input_file))


class FileLabelling:
    """Documents on their way to a labelled file.

    Args:
      label: documents -> what `label_documents` returns.
      documents: read once, in order.
      output_format: jsonl, brat, html or text.

    Attributes:
      counts: what was written so far.
    """

    def __init__(
        self,
        label: Callable[[Sequence[str]], list[dict[str, Any]]],
        documents: Iterable[str],
        output_format: str,
        labels: Sequence[str],
    ):
        self._label, self._documents = label, iter(documents)
        self._format, self._labels = output_format, labels
        self._digest = hashlib.sha256()  # of the documents read
        self.counts = dict.fromkeys(("documents", "sentences", "windows", "characters", "spans"), 0)

    def write(self, output: ResumableOutput, total: int | None) -> None:
        """Labels what `output` does not have yet, shows how far it is (of `total` documents), and finishes it.

        Raises InputError if the documents begin otherwise than those that were labelled before.
        """
        with progress_bar("label", total, "documents") as advance:
            if output.position:
                self._skip(output.position)
                advance(self.counts["documents"])
            done = self.counts["documents"]
            for chunk in self.chunks():
                output.write(chunk, {"counts": self.counts, "sha256": self._digest.hexdigest()})
                advance(self.counts["documents"] - done)
                done = self.counts["documents"]
        output.finish(self.end())
        if self.counts["windows"] > self.counts["sentences"]:
            logger.info(
                "%(sentences)d sentences in %(windows)d windows: some are longer than the model reads", self.counts
            )

    def write_stream(self, stream: IO[str]) -> None:
        """Labels everything; each chunk can be read as soon as it is there."""
        for chunk in self.chunks():
            stream.write(chunk)
            stream.flush()
        stream.write(self.end())

    def chunks(self) -> Iterator[str]:
        """Yields the text of `DOCUMENTS_AT_ONCE` documents after the other."""
        while (chunk := self._next_chunk()) is not None:
            yield chunk

    def end(self) -> str:
        """Returns what comes after the last chunk."""
        return ("" if self.counts["documents"] else self._start()) + (PAGE_END if self._format == "html" else "")

    def _start(self) -> str:
        return PAGE_START if self._format == "html" else ""

    def _next_chunk(self) -> str | None:
        documents = self._read(DOCUMENTS_AT_ONCE)
        if not documents:
            return None
        start = "" if self.counts["documents"] else self._start()
        return start + "".join(map(self._render, self._label(documents)))

    def _read(self, count: int) -> list[str]:
        documents = list(islice(self._documents, count))
        for text in documents:
            self._digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
        return documents

    def _skip(self, position: dict[str, Any]) -> None:
        done = position["counts"]["documents"]
        for at in range(0, done, DOCUMENTS_AT_ONCE):
            self._read(min(DOCUMENTS_AT_ONCE, done - at))
        if self._digest.hexdigest() != position["sha256"]:
            raise InputError(
                f"the first {done} documents of the input are not those that were labelled before; give the same "
                "input, or remove the .journal beside the output to begin anew"
            )
        self.counts.update(position["counts"])
        logger.info("goes on after %d documents", done)

    def _render(self, result: dict[str, Any]) -> str:
        spans = [Span(s["start"], s["end"], s["label"]) for s in result["spans"]]
        if self._format == "jsonl":
            text = json.dumps(result, ensure_ascii=False) + "\n"
        elif self._format == "brat":
            # One .ann for the whole input: numbers and offsets go on from document to document.
            text = write_brat(result["text"], spans, self.counts["spans"] + 1, self.counts["characters"])
        elif self._format == "html":
            text = render_paragraph(result["text"], spans, self._labels)
        else:
            text = render_text(result["text"], spans) + "\n"
        self.counts["documents"] += 1
        self.counts["sentences"] += result["sentences"]
        self.counts["windows"] += result["windows"]
        self.counts["characters"] += len(result["text"]) + 1  # and the line end
        self.counts["spans"] += len(spans)
        return text


def _lines(input_file: Path | None, line_end: str) -> Iterator[str]:
    """Yields the lines without `line_end`'s characters at their ends."""
    if input_file is None or str(input_file) == "-":
        if sys.stdin.isatty():
            print("reading documents from standard input, one a line; end with Ctrl-D", file=sys.stderr)
        yield from _decode(sys.stdin.buffer, "standard input", line_end)
    else:
        with input_file.open("rb") as stream:
            yield from _decode(stream, str(input_file), line_end)


def _decode(stream: Iterable[bytes], name: str, line_end: str) -> Iterator[str]:
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8").rstrip(line_end)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}:{number}: not UTF-8 ({error.reason} at byte {error.start} of the line); convert it first"
            ) from error


def _count_lines(input_file: Path | None) -> int | None:
    """None where reading them would use them up."""
    if input_file is None or not input_file.is_file():
        return None
    with input_file.open("rb") as stream:
        return sum(1 for _ in stream)
