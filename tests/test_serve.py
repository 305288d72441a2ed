"""`medmt5 serve`: a real model over a real socket answers as `medmt5 label` does; how it starts, and how it ends."""

import json
import logging
import os
import signal
import socket
import threading
import urllib.request

import jax
import pytest

from medmt5 import serve
from medmt5.cli import main
from medmt5.document_labelling import label_documents
from medmt5.errors import InputError
from medmt5.labelling import Labeller
from medmt5.model import mt5
from medmt5.partitioning import Partitioning
from medmt5.serving.application import Model
from medmt5.serving.requests import Limits
from medmt5.trained_model import TrainedModel

LABELS = ("Disease", "Drug")


class Client(threading.Thread):
    """Asks a service that runs in the main thread, where signals arrive; `answers` are the JSON of each question."""

    def __init__(self, port, *bodies):
        super().__init__()
        self.url, self.bodies, self.answers = f"http://127.0.0.1:{port}", bodies, []
        self.start()

    def run(self):
        for body in self.bodies:
            question = urllib.request.Request(f"{self.url}/label", json.dumps(body).encode())
            question.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(question, timeout=60) as answer:
                self.answers.append(json.load(answer))
        os.kill(os.getpid(), signal.SIGTERM)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def listen(load, port, host="127.0.0.1"):
    serve.listen(load, LABELS, host=host, port=port, limits=Limits(), batch_size=2)


@pytest.fixture(scope="module")
def labeller(tokenizer):
    """Weights of nobody: what it says is nonsense, and the same twice."""
    config = mt5.MT5Config(
        vocab_size=tokenizer.size,
        emb_dim=16,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        head_dim=8,
        mlp_dim=16,
    )
    boxed = mt5.init_params(config, jax.random.key(0))
    params = jax.tree.map(lambda box: box.value, boxed, is_leaf=lambda x: hasattr(x, "names"))
    mesh = Partitioning(num_devices=1).make_mesh()
    lengths = {"inputs": 32, "targets": 32}
    return Labeller(TrainedModel(config, params, tokenizer, lengths, True, mesh, "nowhere", 3), beam_size=2)


def test_a_model_answers_over_http_as_the_command_does(labeller, caplog):
    caplog.set_level(logging.INFO)
    texts = ["carditis, nephritis.\nNo hepatitis 😀", "", "El Dr. Mateo. Sufficientia cardio <b>"]
    port = free_port()
    ready = []

    def load():
        model = serve.prepare(labeller, LABELS)
        ready.append(Client(port, {"texts": texts, "lang": "es"}, {"text": texts[0], "labels": ["Drug"]}))
        return model

    listen(load, port)
    ready[0].join()
    every, drugs = ready[0].answers
    expected = label_documents(labeller, texts, LABELS, "es")
    assert every["documents"] == json.loads(json.dumps(expected))
    assert any(document["spans"] for document in expected)
    assert drugs["documents"] == json.loads(json.dumps(label_documents(labeller, texts[:1], ["Drug"])))
    assert f"labelling at http://127.0.0.1:{port}" in caplog.text
    assert not any(word in caplog.text for text in texts for word in text.split())
