"""The service as an ASGI application: POST /label, GET /health, GET /openapi.json, and the page at /."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from medmt5 import languages
from medmt5.evaluation.marked_text import HUES
from medmt5.serving.batching import Batcher
from medmt5.serving.guard import Guard
from medmt5.serving.openapi import describe_service
from medmt5.serving.requests import Document, Limits, Refused, parse_documents

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
ASSETS = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
RETRY_SECONDS = 2


@dataclasses.dataclass(frozen=True)
class Model:
    """What the service needs of a model; sentences, and what is found in them, are whatever it makes of them.

    Attributes:
      split: a document -> its sentences.
      label: sentences of any documents -> what is found in each; the one thing that takes time.
      describe: a document, its sentences, what was found in them -> what `medmt5 label` writes of the document.
      step: of the checkpoint.
    """

    split: Callable[[Document], Sequence[Any]]
    label: Callable[[Sequence[Any]], Sequence[Any]]
    describe: Callable[[Document, Sequence[Any], Sequence[Any]], dict[str, Any]]
    step: int


class Service:
    """Answers requests.

    Args:
      load: loads a model and compiles one program; called in the thread that then owns the model.
      failed: told why `load` failed.
      labels: those that requests may ask for.
      batch_size: sentences labelled together.
    """

    def __init__(
        self,
        load: Callable[[], Model],
        labels: Sequence[str],
        *,
        limits: Limits,
        batch_size: int,
        failed: Callable[[Exception], None],
    ):
        self._load, self._failed, self._labels = load, failed, tuple(labels)
        self._limits, self._batch_size = limits, batch_size
        self._requests = 0
        self._model: Model | None = None
        self._batcher: Batcher[Any, Any] | None = None

    @contextlib.asynccontextmanager
    async def run(self, app: Starlette) -> AsyncIterator[None]:
        """Has the model loaded and labels what arrives, while the application lives."""
        with ThreadPoolExecutor(1, "model") as thread:
            work = asyncio.create_task(self._work(thread))
            try:
                yield
            finally:
                work.cancel()

    async def _work(self, thread: ThreadPoolExecutor) -> None:
        try:
            self._model = await asyncio.get_running_loop().run_in_executor(thread, self._load)
        except Exception as error:
            self._failed(error)
            return
        self._batcher = Batcher(self._model.label, thread, batch_size=self._batch_size)
        await self._batcher.run()

    async def label(self, request: Request) -> Response:
        if self._batcher is None or self._model is None:
            raise _busy("The model is still being loaded.")
        if self._requests >= self._limits.max_requests:
            raise _busy("Too many requests are waiting.")
        self._requests += 1
        try:
            documents = parse_documents(await self._read(request), self._labels, self._limits.max_documents)
            sentences = [self._model.split(document) for document in documents]
            every = [sentence for of_one in sentences for sentence in of_one]
            found = iter(await self._wait(request, self._batcher.label(every)))
            of_each = [[next(found) for _ in of_one] for of_one in sentences]
            return JSONResponse({"documents": list(map(self._model.describe, documents, sentences, of_each))})
        finally:
            self._requests -= 1

    async def _read(self, request: Request) -> bytes:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # A form of another site can send any other type without asking first.
            raise Refused(415, "Send the header Content-Type: application/json.", {"Connection": "close"})
        limit = self._limits.max_bytes
        too_long = Refused(413, f"A request may have {limit:,} bytes; send several.", {"Connection": "close"})
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise too_long
        except TimeoutError:
            message = f"The body did not arrive within {self._limits.body_seconds:g} seconds."
            raise Refused(408, message, {"Connection": "close"}) from None
        return bytes(body)

    async def _wait(self, request: Request, labelling) -> list[Any]:
        """Waits for the results, no longer than the limit, and no longer than the client does."""
        work, gone = asyncio.ensure_future(labelling), asyncio.ensure_future(_disconnect(request))
        try:
            await asyncio.wait({work, gone}, timeout=self._limits.timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if gone.done():
                raise ClientDisconnect
            raise _busy(f"This was not labelled within {self._limits.timeout_seconds:g} seconds.")
        finally:
            work.cancel()
            gone.cancel()

    async def health(self, request: Request) -> Response:
        if self._batcher is None or self._model is None:
            return JSONResponse({"status": "loading"}, 503, {"Retry-After": str(RETRY_SECONDS)})
        return JSONResponse(
            {
                "status": "ready",
                "step": self._model.step,
                "labels": self._labels,
                "requests": self._requests,
                "waiting": self._batcher.waiting,
            }
        )

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(describe_service(self._labels, languages.codes(), self._limits))

    async def page(self, request: Request) -> Response:
        environment = Environment(autoescape=True, loader=FileSystemLoader(FOLDER), trim_blocks=True)
        page = environment.get_template("page.html.j2").render(
            hues={label: HUES[i % len(HUES)] for i, label in enumerate(self._labels)},
            languages={code: languages.load(code).name for code in languages.codes()},
            max_bytes=self._limits.max_bytes,
        )
        return HTMLResponse(page)


def make_application(
    load: Callable[[], Model],
    labels: Sequence[str],
    *,
    host: str,
    limits: Limits,
    batch_size: int,
    failed: Callable[[Exception], None],
) -> ASGIApp:
    """Returns the application. `host` is the address it listens on; the rest is `Service`'s."""
    service = Service(load, labels, limits=limits, batch_size=batch_size, failed=failed)
    routes = [
        Route("/", service.page),
        Route("/label", service.label, methods=["POST"]),
        Route("/health", service.health),
        Route("/openapi.json", service.openapi),
        *(Route(f"/{name}", _asset) for name in ASSETS),
    ]
    handlers = {Refused: _refuse, HTTPException: _explain, ClientDisconnect: _leave, Exception: _fail}
    app = Starlette(routes=routes, lifespan=service.run, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, host)


async def _asset(request: Request) -> Response:
    name = request.url.path.lstrip("/")
    return Response((FOLDER / name).read_bytes(), media_type=ASSETS[name])


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _busy(message: str) -> Refused:
    return Refused(503, f"{message} Try again in a moment.", {"Retry-After": str(RETRY_SECONDS)})


def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"error": str(error)}, error.status, error.headers)


def _explain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {404: "There is nothing at this address.", 405: "This address does not take this method."}
    return JSONResponse({"error": message.get(error.status_code, error.detail)}, error.status_code, error.headers)


def _leave(request: Request, error: Exception) -> Response:
    """Nobody reads it; the log has the number by which proxies know a client that went away."""
    return Response(status_code=499)


def _fail(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "This could not be labelled; the log of the service names the kind of error."}, 500)
