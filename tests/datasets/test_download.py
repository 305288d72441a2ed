"""A file is there only if it is the declared one: whole, of the declared sha256, and not too large."""

import hashlib
import http.server
import threading
from dataclasses import replace

import pytest

from medmt5 import download
from medmt5.datasets.declarations import find
from medmt5.datasets.declarations.declaration import Download
from medmt5.datasets.download import get
from medmt5.errors import InputError

CONTENT = b"No\tO\nasma\tB-Disease\n" * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


ASKED: list[str] = []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ASKED.append(self.path)
        if self.path == "/moved.tsv":
            self.send_response(302)
            self.send_header("Location", "/train.tsv")
            self.end_headers()
            return
        if self.path not in ("/train.tsv", "/cut.tsv", "/unsaid.tsv"):
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/unsaid.tsv":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path == "/cut.tsv" else CONTENT)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def declared(url, name="train.tsv", sha256=SHA256):
    return replace(find("ncbi_disease"), downloads=(Download(url, "ncbi/files/", {name: sha256}),))


@pytest.mark.parametrize("name", ["train.tsv", "moved.tsv", "unsaid.tsv"])
def test_a_file_is_fetched_once_its_licence_told_first(server, tmp_path, capsys, name):
    ASKED.clear()
    get(declared(server, name), tmp_path)
    assert (tmp_path / "ncbi/files" / name).read_bytes() == CONTENT
    assert [file.name for file in (tmp_path / "ncbi/files").iterdir()] == [name]
    shown = " ".join(capsys.readouterr().err.split())
    assert shown.index("Licence: public domain") < shown.index("fetched:")
    asked = len(ASKED)
    get(declared(server, name), tmp_path)
    assert len(ASKED) == asked
    assert "there already" in capsys.readouterr().err


def test_another_file_than_declared_is_not_kept_nor_does_it_replace_one(server, tmp_path):
    with pytest.raises(InputError, match=f"is not the declared file: its sha256 is {SHA256}, not {'0' * 64}"):
        get(declared(server, sha256="0" * 64), tmp_path)
    assert not list((tmp_path / "ncbi/files").iterdir())
    old = tmp_path / "ncbi/files/train.tsv"
    old.write_text("old", encoding="utf-8")
    with pytest.raises(InputError, match="is not the declared file"):
        get(declared(server, sha256="0" * 64), tmp_path)
    assert old.read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize("name", ["train.tsv", "unsaid.tsv"])
def test_a_file_beyond_the_limit_is_not_kept(server, tmp_path, monkeypatch, name):
    monkeypatch.setattr(download, "MAX_BYTES", 50_000)
    with pytest.raises(InputError, match="more than 50,000 bytes"):
        get(declared(server, name), tmp_path)
    assert not list((tmp_path / "ncbi/files").iterdir())


@pytest.mark.parametrize("name", ["cut.tsv", "none.tsv"])
def test_a_broken_or_refused_answer_leaves_nothing(server, tmp_path, name):
    with pytest.raises(InputError, match=r"could not be fetched|is not the declared file"):
        get(declared(server, name), tmp_path)
    assert not list((tmp_path / "ncbi/files").iterdir())


def test_no_server_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"could not be fetched.*check the connection, or put the file at"):
        get(declared("http://127.0.0.1:9/"), tmp_path)


def test_a_set_without_a_stable_address_says_how_it_is_got(tmp_path):
    with pytest.raises(InputError, match="bc5cdr_disease has no stable address; to get it: register"):
        get(find("bc5cdr_disease"), tmp_path)
