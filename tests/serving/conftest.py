"""A stand-in for the model that finds words, and a headless Chromium, spoken to by its DevTools protocol."""

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request

import pytest
from starlette.testclient import TestClient
from websockets.sync.client import connect

from medmt5.annotation.sentences import split_sentences
from medmt5.serving.application import Model, make_application
from medmt5.serving.requests import Limits

LABELS = ("Disease", "Drug", "Chemical")
WORDS = {"asthma": "Disease", "nephritis": "Disease", "metformin": "Drug", "glucose": "Chemical"}
PROBABILITIES = {"probability": 0.875, "local_probability": 0.75}


class WordModel:
    """Labels the words it knows; `batches` are the texts of each call."""

    def __init__(self):
        self.batches = []

    def __call__(self, documents):
        self.batches.append([document.text for document in documents])
        return [self.label_one(document) for document in documents]

    def label_one(self, document):
        spans = [
            {"start": m.start(), "end": m.end(), "label": WORDS[m[0]], "text": m[0], **PROBABILITIES}
            for m in re.finditer("|".join(WORDS), document.text)
            if WORDS[m[0]] in document.labels
        ]
        count = len(split_sentences(document.text, document.lang))
        score = -0.25 if count else None
        return {"text": document.text, "spans": spans, "score": score, "sentences": count, "windows": count}


def whole_documents(label):
    """A model whose documents are of one sentence each."""
    return Model(lambda document: [document], label, lambda document, sentences, found: found[0], step=7)


@pytest.fixture
def model():
    return WordModel()


@pytest.fixture
def make_app(model):
    """Returns an application around `label`, by default the model; `limits` are those of `Limits`."""

    def make(label=model, *, load=None, host="127.0.0.1", batch_size=8, failed=None, **limits):
        load = load or (lambda: whole_documents(label))
        failed = failed or (lambda error: pytest.fail(str(error)))
        return make_application(load, LABELS, host=host, limits=Limits(**limits), batch_size=batch_size, failed=failed)

    return make


@pytest.fixture
def start(make_app):
    """Returns a client of a service that is ready."""
    with contextlib.ExitStack() as stack:

        def start(*args, wait=True, **kwargs):
            client = TestClient(make_app(*args, **kwargs), base_url="http://127.0.0.1:8080")
            stack.enter_context(client)
            while wait and client.get("/health").status_code == 503:
                time.sleep(0.005)
            return client

        yield start


class Chromium:
    """One tab. `evaluate` runs JavaScript in it and returns the value; promises are awaited."""

    def __init__(self, program, folder):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += ["--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port_file = folder / "DevToolsActivePort"
        self._wait(lambda: port_file.is_file() and port_file.read_text().count("\n"))
        port = port_file.read_text().split("\n")[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            [tab] = [target for target in json.load(answer) if target["type"] == "page"]
        self._connection = connect(tab["webSocketDebuggerUrl"], max_size=None)
        self._socket = self._connection.__enter__()
        self._numbers = itertools.count()
        self.events = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def evaluate(self, script):
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, script):
        """Waits until `script` is true."""
        self._wait(lambda: self.evaluate(script), script)

    def press(self, key, code, modifiers=0):
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, modifiers=modifiers)

    def screenshot(self, path, width, dark=False):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        png = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(png))

    def close(self):
        self._connection.__exit__(None, None, None)
        self._process.terminate()
        self._process.wait()

    @staticmethod
    def _wait(condition, what="Chromium to start"):
        late = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < late, f"waited in vain for {what}"
            time.sleep(0.05)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    program = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if not program:
        pytest.skip("no Chromium: install one, or set CHROMIUM to its program")
    browser = Chromium(program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
