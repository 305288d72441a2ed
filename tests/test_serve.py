"""`medmt5 serve`: a real model over a real socket answers as `medmt5 label` does; how it starts, and how it ends."""

import contextlib
import logging
import os
import signal
import socket
import threading
import time

import httpx2
import jsonschema
import pytest

from medmt5 import serve, trained_model
from medmt5.cli import main
from medmt5.document_labelling import label_documents
from medmt5.errors import InputError
from medmt5.labelling import Labeller
from medmt5.serving.application import Model
from medmt5.serving.requests import Document, Limits

LABELS = ("Disease", "Drug")


class Client(threading.Thread):
    """Asks a service that runs in the main thread, where signals arrive, once it is ready; then ends it."""

    def __init__(self, port, *bodies, end=True):
        super().__init__()
        self.url, self.bodies, self.end = f"http://127.0.0.1:{port}", bodies, end
        self.answers, self.description = [], {}
        self.start()

    def run(self):
        with httpx2.Client(base_url=self.url, timeout=60) as client:
            while True:
                with contextlib.suppress(httpx2.ConnectError):
                    if client.get("/health").status_code == 200:
                        break
                time.sleep(0.01)
            self.description = client.get("/openapi.json").json()
            self.answers = [client.post("/label", json=body).json() for body in self.bodies]
        if self.end:
            os.kill(os.getpid(), signal.SIGTERM)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def listen(load, port, host="127.0.0.1"):
    serve.listen(load, LABELS, host=host, port=port, limits=Limits(), batch_size=2)


@pytest.fixture(scope="module")
def labeller(tiny_model):
    return Labeller(tiny_model, beam_size=3, scoring="local", batch_size=4)  # as other tests: programs are shared


def test_a_model_answers_over_http_as_the_command_does(labeller, caplog, monkeypatch):
    monkeypatch.setattr(trained_model, "load_trained_model", lambda checkpoint: labeller.model)
    caplog.set_level(logging.INFO)
    texts = ["carditis, nephritis.\nNo hepatitis 😀", "", "Dra. Mateo <b>"]
    port = free_port()
    client = Client(port, {"texts": texts, "lang": "es"})
    arguments = ["--checkpoint", "runs/a", "--labels", ",".join(LABELS), "--port", str(port)]
    assert main(["serve", *arguments, "--beam", "3", "--scoring", "local", "--batch_size", "4"]) == 0
    client.join()
    [answer] = client.answers
    expected = label_documents(labeller, texts, LABELS, "es")
    assert answer["documents"] == expected
    assert any(document["spans"] for document in expected)
    assert f"labelling at http://127.0.0.1:{port}" in caplog.text
    assert not any(word in caplog.text for text in texts for word in text.split())
    schema = {"$ref": "#/components/schemas/Labelled", "components": client.description["components"]}
    jsonschema.Draft202012Validator(schema).validate(answer)


def test_documents_of_any_labels_and_language_are_labelled_together(labeller):
    kinds = [(LABELS, "en"), (("Drug",), "es"), (("Drug",), "en")]
    text = "carditis, nephritis. Dra. Mateo"
    documents = [Document(text, *kind) for kind in kinds]
    model = serve.prepare(labeller, LABELS)
    sentences = list(map(model.split, documents))
    found = iter(model.label([sentence for of_one in sentences for sentence in of_one]))
    results = [
        model.describe(document, of_one, [next(found) for _ in of_one])
        for document, of_one in zip(documents, sentences, strict=True)
    ]
    for kind, result in zip(kinds, results, strict=True):
        [alone] = label_documents(labeller, [text], *kind)
        assert [(s["start"], s["end"], s["label"]) for s in result["spans"]] == [
            (s["start"], s["end"], s["label"]) for s in alone["spans"]
        ]
        assert result["score"] == pytest.approx(alone["score"], abs=1e-5)


def test_at_sigterm_the_requests_under_way_are_answered():
    port = free_port()
    called, stopped = threading.Event(), threading.Event()

    def label(documents):
        called.set()
        assert stopped.wait(60)
        return [{"text": document.text, "spans": []} for document in documents]

    def stop():
        """Lets the model go on when the service takes no new connections any more."""
        assert called.wait(60)
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=60).close()
            except ConnectionResetError:
                continue  # taken by the system, not by the service
            except ConnectionRefusedError:
                break
        stopped.set()

    threading.Thread(target=stop).start()
    client = Client(port, {"text": "under way"}, end=False)
    listen(lambda: Model(lambda document: [document], label, lambda document, sentences, found: found[0], 7), port)
    client.join()
    assert client.answers == [{"documents": [{"text": "under way", "spans": []}]}]


def test_a_model_that_cannot_be_loaded_ends_the_service(tmp_path, capsys):
    arguments = ["serve", "--checkpoint", str(tmp_path), "--labels", "Disease", "--port", "0"]
    assert main(arguments) == 2
    assert "medmt5 serve: " in capsys.readouterr().err


def test_a_label_the_model_does_not_know_ends_the_service(labeller, monkeypatch):
    monkeypatch.setattr(labeller.model.tokenizer, "labels", ("Disease",))
    with pytest.raises(InputError, match="label 'Drug'"):
        listen(lambda: serve.prepare(labeller, LABELS), 0)


def test_what_is_missing_is_said_before_anything_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    assert main(["serve", "--checkpoint", "nowhere", "--labels", "Disease"]) == 2
    expected = "medmt5 serve: medmt5 serve needs starlette and uvicorn; pip install 'medmt5[serve]'\n"
    assert capsys.readouterr().err == expected


def test_an_address_that_is_taken_or_none_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot listen at 127\.0\.0\.1, port {port}: .*in use.*--port"):
            listen(None, port)
    with pytest.raises(InputError, match="cannot listen at 127"):
        listen(None, 70_000)


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_who_opens_it_to_the_network_is_warned(host, warned, caplog):
    def load():
        raise InputError("enough")

    with pytest.raises(InputError, match="enough"):
        listen(load, 0, host)
    assert ("clinical text goes over the network in the clear" in caplog.text) == warned
