"""What is answered to what is asked; and that neither answers to wrong requests nor the log repeat a text."""

import asyncio
import contextlib
import json
import logging
import re
import threading

import httpx2
import pytest

from medmt5.errors import InputError
from medmt5.serving.application import Model

SECRET = "Pneumonoultramicroscopic"
JSON = {"Content-Type": "application/json"}


def post(client, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post("/label", content=content, headers=JSON | headers)


def test_one_text_and_several_are_labelled(start):
    client = start()
    one = post(client, {"text": "No asthma, 😀 metformin."})
    assert one.status_code == 200
    [document] = one.json()["documents"]
    assert [(s["start"], s["end"], s["label"], s["text"]) for s in document["spans"]] == [
        (3, 9, "Disease", "asthma"),
        (13, 22, "Drug", "metformin"),
    ]
    texts = ["nephritis", "", "glucose\nand asthma"]
    several = post(client, {"texts": texts, "labels": ["Chemical", "Drug"], "lang": "es"}).json()["documents"]
    assert [document["text"] for document in several] == texts
    assert [[s["label"] for s in document["spans"]] for document in several] == [[], [], ["Chemical"]]
    assert post(client, {"texts": []}).json() == {"documents": []}


WRONG = {
    "no JSON": (SECRET.encode(), 400, "not JSON"),
    "no UTF-8": (b'{"text": "\xff"}', 400, "not JSON in UTF-8"),
    "nothing": (b"", 400, "not JSON"),
    "deep": (b"[" * 200_000, 400, "not JSON"),
    "long number": (b'{"text": ' + b"1" * 5_000 + b"}", 400, "not JSON"),
    "a list": ([SECRET], 422, "must be an object"),
    "no text": ({"lang": "en"}, 422, "Give either text"),
    "both": ({"text": SECRET, "texts": [SECRET]}, 422, "Give either text"),
    "unknown field": ({"text": SECRET, SECRET: 1}, 422, "none of text, texts, labels, lang"),
    "number": ({"text": 5}, 422, "text must be a string"),
    "null": ({"text": None}, 422, "text must be a string"),
    "texts as a string": ({"texts": SECRET}, 422, "texts must be a list"),
    "a text within": ({"texts": [SECRET, [SECRET]]}, 422, r"texts\[1\] must be a string"),
    "surrogate": (b'{"texts": ["' + SECRET.encode() + b' \\ud83d"]}', 422, r"texts\[0\] has half"),
    "labels as a string": ({"text": SECRET, "labels": "Disease"}, 422, "labels must be a list"),
    "labels as an object": ({"text": SECRET, "labels": {"Disease": 1}}, 422, "labels must be a list"),
    "no label": ({"text": SECRET, "labels": []}, 422, "one or more"),
    "null labels": ({"text": SECRET, "labels": None}, 422, "labels must be a list"),
    "label": ({"text": SECRET, "labels": [3]}, 422, r"labels\[0\] must be a string"),
    "unknown label": (
        {"text": SECRET, "labels": ["Drug", SECRET]},
        422,
        r"labels\[1\] is unknown here; this service has Disease, Drug, Chemical\.",
    ),
    "lang": ({"text": SECRET, "lang": 1}, 422, "lang must be a string"),
    "unknown lang": ({"text": SECRET, "lang": SECRET}, 422, "lang is unknown here; it is one of en, es, fr, it"),
    "documents": ({"texts": [SECRET] * 5}, 413, "texts has 5 documents, a request may have 4"),
    "bytes": ({"text": SECRET * 1000}, 413, "may have 10,000 bytes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_are_refused_in_a_sentence_without_their_text(start, name, caplog, capfd):
    body, status, message = WRONG[name]
    caplog.set_level(logging.DEBUG)
    answer = post(start(max_bytes=10_000 if name != "deep" else 1 << 20, max_documents=4), body)
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    assert re.search(message, answer.json()["error"])
    assert SECRET not in answer.text + caplog.text + "".join(capfd.readouterr())


def test_other_addresses_methods_and_types_are_answered_in_json(start):
    client = start()
    for method, path, status in (("GET", "/label", 405), ("POST", "/health", 405), ("GET", "/../x", 404)):
        answer = client.request(method, path)
        assert (answer.status_code, answer.json().keys()) == (status, {"error"})
    assert client.get("/label").headers["allow"] == "POST"
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert client.post("/label", content=b"{}", headers={"Content-Type": kind}).status_code == 415
    answer = client.post("/label", content=b'{"text": ""}', headers={"Content-Type": "application/json; charset=utf-8"})
    assert answer.status_code == 200


@pytest.mark.parametrize("declared", [True, False])
def test_no_more_than_the_cap_is_read(make_app, declared):
    """The application is asked directly: a client would hide how much was read."""
    read, sent = [], []

    async def receive():
        read.append(1000)
        return {"type": "http.request", "body": b" " * 1000, "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    if declared:
        headers.append((b"content-length", b"1000000"))
    scope = {"type": "http", "method": "POST", "path": "/label", "headers": headers, "query_string": b""}

    async def ask():
        async with running(make_app(max_bytes=5_000)) as (app, _):
            await app(scope, receive, send)

    asyncio.run(ask())
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]
    assert sum(read) == (0 if declared else 6_000)


@contextlib.asynccontextmanager
async def running(app):
    """Yields the application and a client of it, in this event loop, once it is ready."""
    begun, over = asyncio.Event(), asyncio.Event()

    async def receive():
        if begun.is_set():
            await over.wait()
            return {"type": "lifespan.shutdown"}
        begun.set()
        return {"type": "lifespan.startup"}

    async def send(message):
        assert not message["type"].endswith("failed"), message

    life = asyncio.create_task(app({"type": "lifespan", "state": {}}, receive, send))
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
        while (await client.get("/health")).status_code == 503:
            await asyncio.sleep(0.005)
        yield app, client
    over.set()
    await life


def test_two_hundred_requests_at_once(make_app, model):
    words = ("asthma", "metformin", "glucose", "nothing")

    async def ask():
        async with running(make_app(batch_size=16)) as (_, client):
            texts = [f"{words[i % 4]} {i} " * (i % 3 + 1) for i in range(200)]
            answers = await asyncio.gather(*(client.post("/label", json={"text": text}) for text in texts))
            return texts, answers

    texts, answers = asyncio.run(ask())
    for text, answer in zip(texts, answers, strict=True):
        assert answer.status_code == 200
        [document] = answer.json()["documents"]
        assert document["text"] == text
        assert len(document["spans"]) == sum(text.count(word) for word in words[:3])
    assert sum(map(len, model.batches)) == 200
    assert max(map(len, model.batches)) == 16


class Held:
    """The stand-in, which waits to be let go."""

    def __init__(self, model):
        self.model, self.go, self.called = model, threading.Event(), threading.Event()

    def __call__(self, documents):
        self.called.set()
        assert self.go.wait(60)
        return self.model(documents)


def test_a_long_document_does_not_hold_up_a_short_one(make_app):
    batches, called, go = [], threading.Event(), threading.Event()

    def label(words):
        called.set()
        assert go.wait(60)
        batches.append(words)
        return [word.upper() for word in words]

    def load():
        """Words are its sentences."""
        return Model(lambda d: d.text.split(), label, lambda d, words, found: {"words": words, "found": found}, step=7)

    async def ask():
        async with running(make_app(load=load, batch_size=4)) as (_, client):
            long = asyncio.create_task(client.post("/label", json={"text": "long " * 40}))
            while not called.is_set():
                await asyncio.sleep(0.005)
            short = asyncio.create_task(client.post("/label", json={"texts": ["a short", "one"]}))
            while (await client.get("/health")).json()["waiting"] < 36 + 3:
                await asyncio.sleep(0.005)
            go.set()
            return [answer.json()["documents"] for answer in await asyncio.gather(long, short)]

    long, short = asyncio.run(ask())
    assert long == [{"words": ["long"] * 40, "found": ["LONG"] * 40}]
    assert [document["found"] for document in short] == [["A", "SHORT"], ["ONE"]]
    assert batches[:3] == [["long"] * 4, ["long", "a", "long", "short"], ["long", "one", "long", "long"]]


def test_above_the_cap_the_next_request_is_told_to_come_back(make_app, model):
    held = Held(model)

    async def ask():
        async with running(make_app(held, max_requests=20)) as (_, client):
            waiting = [asyncio.create_task(client.post("/label", json={"text": "asthma"})) for _ in range(20)]
            while (health := (await client.get("/health")).json())["requests"] < 20:
                await asyncio.sleep(0.005)
            refused = await client.post("/label", json={"text": "asthma"})
            held.go.set()
            answered = await asyncio.gather(*waiting)
            return health, refused, answered, await client.post("/label", json={"text": "asthma"})

    health, refused, answered, later = asyncio.run(ask())
    assert health["status"] == "ready"
    assert 12 <= health["waiting"] <= 20  # but for a first batch of at most 8
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert refused.json() == {"error": "Too many requests are waiting. Try again in a moment."}
    assert {answer.status_code for answer in (*answered, later)} == {200}


def test_a_request_fails_alone_and_its_text_stays_out_of_the_log(make_app, model, caplog, capfd):
    caplog.set_level(logging.DEBUG)

    def label(documents):
        for document in documents:
            if SECRET in document.text:
                raise RuntimeError(f"cannot label {document.text}")
        return model(documents)

    async def ask():
        async with running(make_app(label)) as (_, client):
            texts = ["asthma", SECRET, "glucose"]
            return await asyncio.gather(*(client.post("/label", json={"text": text}) for text in texts))

    good, bad, also_good = asyncio.run(ask())
    assert (good.status_code, bad.status_code, also_good.status_code) == (200, 500, 200)
    assert bad.json().keys() == {"error"}
    assert "RuntimeError at" in caplog.text
    assert "POST /label: 500" in caplog.text
    assert SECRET not in bad.text + caplog.text + "".join(capfd.readouterr())


def test_what_takes_too_long_is_given_up(make_app, model):
    held = Held(model)

    async def ask():
        async with running(make_app(held, timeout_seconds=0.05)) as (_, client):
            late = await client.post("/label", json={"text": "asthma"})
            held.go.set()
            return late

    late = asyncio.run(ask())
    assert late.status_code == 503
    assert "not labelled within 0.05 seconds" in late.json()["error"]


def test_a_slow_body_is_given_up_and_blocks_nobody(make_app):
    async def ask():
        async with running(make_app(body_seconds=0.5)) as (_, client):

            async def trickle():
                yield b'{"text": '
                await asyncio.Event().wait()

            slow = asyncio.create_task(client.post("/label", content=trickle(), headers=JSON))
            quick = await client.post("/label", json={"text": "asthma"})
            assert not slow.done()
            return quick, await slow

    quick, slow = asyncio.run(ask())
    assert (quick.status_code, slow.status_code) == (200, 408)


def test_who_goes_away_is_not_waited_for(make_app, model):
    """Of two requests that wait behind a first one, the one whose client is gone is never labelled."""
    held = Held(model)

    async def ask():
        async with running(make_app(held)) as (app, client):
            first = asyncio.create_task(client.post("/label", json={"text": "first"}))
            while not held.called.is_set():
                await asyncio.sleep(0.005)
            left = asyncio.Event()
            messages = [{"type": "http.request", "body": b'{"text": "gone"}', "more_body": False}]

            async def receive():
                if messages:
                    return messages.pop()
                await left.wait()
                return {"type": "http.disconnect"}

            async def send(message):
                pass

            headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": "/label", "headers": headers, "query_string": b""}
            asking = asyncio.create_task(app(scope, receive, send))
            while (await client.get("/health")).json()["waiting"] < 1:
                await asyncio.sleep(0.005)
            left.set()
            await asking
            held.go.set()
            await first

    asyncio.run(ask())
    assert model.batches == [["first"]]


def test_health_tells_when_the_model_is_ready(start, model):
    loaded = threading.Event()

    def load():
        assert loaded.wait(60)
        return Model(lambda d: [d], model, lambda d, sentences, found: found[0], step=7)

    client = start(load=load, wait=False)
    loading = client.get("/health")
    assert (loading.status_code, loading.json()) == (503, {"status": "loading"})
    refused = post(client, {"text": "asthma"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert client.get("/").status_code == 200
    loaded.set()
    while (health := client.get("/health")).status_code == 503:
        pass
    labels = ["Disease", "Drug", "Chemical"]
    assert health.json() == {"status": "ready", "step": 7, "labels": labels, "requests": 0, "waiting": 0}


def test_a_model_that_cannot_be_loaded_is_told(start):
    def load():
        raise InputError("no checkpoint")

    told = threading.Event()
    errors = []
    client = start(load=load, failed=lambda error: (errors.append(error), told.set()), wait=False)
    assert told.wait(60)
    assert [str(error) for error in errors] == ["no checkpoint"]
    assert client.get("/health").status_code == 503
