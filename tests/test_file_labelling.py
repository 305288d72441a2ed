"""Files of documents: cut anywhere and gone on with, they are what an uninterrupted run writes; little is held."""

import json
import os
import re
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from medmt5 import file_labelling, resumable_output
from medmt5.annotation.formats.brat import read_brat
from medmt5.annotation.repairs import Repairs
from medmt5.cli import main
from medmt5.errors import InputError
from medmt5.file_labelling import FileLabelling
from medmt5.labelling import Labeller
from medmt5.resumable_output import ResumableOutput

LABELS = ["Disease"]
DOCUMENTS = ["No <b>asthma</b> & asthma", "", "niño con asthma", "no", "asthma", "\tasthma", "a", "ün asthma"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(file_labelling, "DOCUMENTS_AT_ONCE", 3)


def label(documents):
    """Finds a word, without a model."""
    return [
        {
            "text": text,
            "spans": [
                {"start": m.start(), "end": m.end(), "label": "Disease", "text": m[0], "probability": 0.5}
                for m in re.finditer("asthma", text)
            ],
            "sentences": 1,
            "windows": 1,
        }
        for text in documents
    ]


class Killed(Exception):
    """Stands for SIGKILL: nothing after it runs but the kernel's closing of files."""


def write(path, output_format="jsonl", documents=DOCUMENTS, label=label, facts=None):
    with ResumableOutput(path, facts or {}) as output:
        FileLabelling(label, documents, output_format, LABELS).write(output, len(documents))
    return path.read_bytes()


@pytest.mark.parametrize("output_format", ["jsonl", "text", "brat", "html"])
def test_killed_anywhere_and_started_again_it_writes_the_same_bytes(output_format, tmp_path, monkeypatch):
    whole = write(tmp_path / "whole", output_format)
    calls = 0
    add, write_journal = ResumableOutput._add, resumable_output.write_whole

    def kill_at(number, place):
        """Kills at the so-manieth event: before a chunk is labelled, amid its bytes, after them, after the journal."""

        def die(at):
            nonlocal calls
            calls += at == place
            if at == place and calls == number:
                raise Killed

        def torn_add(self, content):
            try:
                die("amid")
            except Killed:
                self._file.write(content.encode()[: len(content) // 2 + 1])
                self._file.flush()
                raise
            add(self, content)
            die("written")

        def torn_journal(path, content):
            write_journal(path, content)
            die("journalled")

        monkeypatch.setattr(ResumableOutput, "_add", torn_add)
        monkeypatch.setattr(resumable_output, "write_whole", torn_journal)
        return lambda documents: die("labelling") or label(documents)

    kills = 0
    for place in ("labelling", "amid", "written", "journalled"):
        for number in (1, 2, 3, 4):
            calls, path = 0, tmp_path / f"{place}{number}"
            try:
                write(path, output_format, label=kill_at(number, place))
            except Killed:
                kills += 1
                assert not path.exists()
            monkeypatch.undo()
            monkeypatch.setattr(file_labelling, "DOCUMENTS_AT_ONCE", 3)
            if not path.exists():
                assert write(path, output_format) == whole
    assert kills == 3 + 4 + 4 + 3  # three chunks; the end is written too, but not labelled or journalled
    assert sorted(path.suffix for path in tmp_path.iterdir()).count("") == 17


def stops_at_the_second_chunk(documents):
    if documents != DOCUMENTS[:3]:
        raise Killed
    return label(documents)


def test_going_on_labels_only_what_is_left(tmp_path):
    seen = []
    with pytest.raises(Killed):
        write(tmp_path / "out", label=stops_at_the_second_chunk)
    write(tmp_path / "out", label=lambda documents: seen.extend(documents) or label(documents))
    assert seen == DOCUMENTS[3:]


def test_another_input_is_refused_and_more_of_the_same_is_not(tmp_path):
    with pytest.raises(Killed):
        write(tmp_path / "out", label=stops_at_the_second_chunk)
    for documents in (["other", *DOCUMENTS[1:]], DOCUMENTS[:2], ["No", *DOCUMENTS]):
        with pytest.raises(InputError, match="the first 3 documents of the input are not those"):
            write(tmp_path / "out", documents=documents)
    more = [*DOCUMENTS, "one more asthma"]
    assert write(tmp_path / "out", documents=more) == write(tmp_path / "whole", documents=more)


def test_an_empty_input_gives_an_empty_file(tmp_path):
    assert write(tmp_path / "out", documents=[]) == b""
    page = write(tmp_path / "page", "html", documents=[])
    assert page.startswith(b"<!doctype html>")
    assert page.endswith(b"</html>\n")


def test_no_more_documents_than_a_chunk_are_held(tmp_path):
    class Document(str):
        """Counted while it lives."""

    alive = weakref.WeakSet()
    most = 0

    def documents():
        nonlocal most
        for number in range(200):
            document = Document(f"{number} asthma")
            alive.add(document)
            most = max(most, len({id(one) for one in alive}))
            yield document
            del document

    with ResumableOutput(tmp_path / "out", {}) as output:
        FileLabelling(label, documents(), "jsonl", LABELS).write(output, None)
    assert 1 < most <= 3
    assert (tmp_path / "out").read_text().count("\n") == 200


def test_jsonl_keeps_every_document_and_brat_reads_back(tmp_path):
    lines = write(tmp_path / "out.jsonl").decode().splitlines()
    assert [json.loads(line)["text"] for line in lines] == DOCUMENTS
    (tmp_path / "brat").mkdir()
    (tmp_path / "brat/a.txt").write_text("".join(f"{text}\n" for text in DOCUMENTS), encoding="utf-8")
    write(tmp_path / "brat/a.ann", "brat")
    repairs = Repairs()
    examples = list(read_brat(tmp_path / "brat", "en", repairs=repairs))
    assert not repairs.counts
    assert sum(len(example.spans) for example in examples) == 6
    last = "\n".join(DOCUMENTS).rindex("asthma")
    assert (tmp_path / "brat/a.ann").read_text().splitlines()[-1] == f"T6\tDisease {last} {last + 6}\tasthma"


def test_a_page_escapes_its_documents(tmp_path):
    page = write(tmp_path / "out", "html").decode()
    assert "No &lt;b&gt;<mark" in page
    assert page.count("<p ") == len(DOCUMENTS)


def test_lines_keep_what_is_in_them_and_tell_where_they_are_not_text(tmp_path):
    file = tmp_path / "in.txt"
    file.write_bytes("é\u2028x\r\n\r\n\x00\x1c\nlast".encode())
    assert list(file_labelling._lines(file, "\r\n")) == ["é\u2028x", "", "\x00\x1c", "last"]
    assert list(file_labelling._lines(file, "\n"))[:2] == ["é\u2028x\r", "\r"]
    assert file_labelling._count_lines(file) == 4
    file.write_bytes(b"a\nb\xff\n")
    with pytest.raises(InputError, match=r"in\.txt:2: not UTF-8 \(invalid start byte at byte 1 of the line\)"):
        list(file_labelling._lines(file, "\n"))


SHORT = ["car di", "", "os", "di", "ne os", "di car", "os"]  # alike in padded lengths: one program


@pytest.fixture
def command(tmp_path, tiny_model, monkeypatch):
    """Runs `medmt5 label` with the tiny model; returns its exit code."""
    monkeypatch.setattr(file_labelling, "load_trained_model", lambda path: tiny_model)
    (tmp_path / "in.txt").write_text("".join(f"{text}\n" for text in SHORT), encoding="utf-8")
    options = ["--checkpoint", "tiny", "--labels", "Disease,Drug", "--beam", "3", "--scoring", "local"]
    return lambda *more: main(["label", *options, "--batch_size", "4", *map(str, more)])


def test_the_command_goes_on_when_interrupted_and_refuses_other_options(command, tmp_path, monkeypatch, capsys, caplog):
    files = ("--input", tmp_path / "in.txt")
    assert command(*files) == 0
    whole = capsys.readouterr().out
    assert [json.loads(line)["text"] for line in whole.splitlines()] == SHORT
    calls, label = [], Labeller.label

    def interrupted(self, sentences, labels):
        calls.append(sentences)
        if len(calls) == 3:  # the first call has no documents
            raise KeyboardInterrupt
        return label(self, sentences, labels)

    monkeypatch.setattr(Labeller, "label", interrupted)
    out = tmp_path / "out.jsonl"
    assert command(*files, "--output", out) == 130
    monkeypatch.setattr(Labeller, "label", label)
    assert not out.exists()
    assert command(*files, "--output", out, "--threshold", 0.5) == 2
    assert "threshold: 0.0 then, 0.5 now" in capsys.readouterr().err
    assert command(*files, "--output", out) == 0
    assert "goes on after 3 documents" in caplog.text
    assert out.read_text(encoding="utf-8") == whole


def test_what_is_no_file_is_written_to_and_not_replaced(command, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as threads:
        reading = threads.submit((tmp_path / "pipe").read_text)
        assert command("car di", "--output", tmp_path / "pipe") == 0
        assert json.loads(reading.result())["text"] == "car di"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "pipe"]
