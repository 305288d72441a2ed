"""`medmt5 serve`: a checkpoint behind HTTP; joins `serving/` to the model and to uvicorn. No TensorFlow."""

from __future__ import annotations

import importlib.util
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmt5 import languages
from medmt5.errors import InputError

if TYPE_CHECKING:
    from medmt5.decoding.label_scores import Scoring
    from medmt5.labelling import Labeller
    from medmt5.serving.application import Model
    from medmt5.serving.requests import Document, Limits

logger = logging.getLogger(__name__)


def serve(
    checkpoint: Path,
    labels: Sequence[str],
    *,
    host: str,
    port: int,
    limits: Limits,
    beam_size: int,
    scoring: Scoring,
    batch_size: int,
) -> None:
    """What `medmt5 serve` does; returns when SIGTERM has come and the requests under way are answered.

    Raises:
      InputError: starlette or uvicorn are not installed, the address is taken, the checkpoint cannot be used, or the
        model does not know a label.
    """
    check_packages()

    def load() -> Model:
        from medmt5.labelling import Labeller
        from medmt5.trained_model import load_trained_model

        model = load_trained_model(checkpoint)
        return prepare(Labeller(model, beam_size=beam_size, scoring=scoring, batch_size=batch_size), labels)

    listen(load, labels, host=host, port=port, limits=limits, batch_size=batch_size)


def check_packages() -> None:
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"medmt5 serve needs {' and '.join(missing)}; pip install 'medmt5[serve]'")


def prepare(labeller: Labeller, labels: Sequence[str]) -> Model:
    """Returns the labeller as the service needs it, with one program compiled."""
    from medmt5.document_labelling import describe_document, label_documents, split_document
    from medmt5.serving.application import Model

    def split(document: Document) -> list[tuple[Document, Any]]:
        return [(document, offsets) for offsets in split_document(document.text, document.lang)]

    def label(sentences: Sequence[tuple[Document, Any]]) -> list[Any]:
        words = [[document.text[s:e] for s, e in offsets] for document, offsets in sentences]
        return labeller.label(words, [document.labels for document, _ in sentences])

    def describe(document: Document, sentences: Sequence[tuple[Document, Any]], found: Sequence[Any]) -> dict[str, Any]:
        return describe_document(document.text, [offsets for _, offsets in sentences], found)

    label_documents(labeller, [languages.load("en").sample], labels)
    return Model(split, label, describe, labeller.model.step)


def listen(
    load: Callable[[], Model], labels: Sequence[str], *, host: str, port: int, limits: Limits, batch_size: int
) -> None:
    """Serves until a signal comes; an error of `load` ends it and is raised."""
    import uvicorn

    from medmt5.serving.application import make_application

    address = _open(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{address.getsockname()[1]}"
    errors: list[Exception] = []

    def load_and_tell() -> Model:
        model = load()
        logger.info("labelling at %s (Ctrl-C ends it)", url)
        return model

    def failed(error: Exception) -> None:
        errors.append(error)
        server.should_exit = True

    if not _is_loopback(host):
        logger.warning(
            "anybody who reaches %s can use this service, and clinical text goes over the network in the clear; "
            "put a proxy with TLS and passwords before it (docs/serving.md)",
            host,
        )
    app = make_application(load_and_tell, labels, host=host, limits=limits, batch_size=batch_size, failed=failed)
    # Requests under way are answered or time out on their own; the last seconds are for clients that do not read.
    farewell = int(limits.body_seconds + limits.timeout_seconds) + 5
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,  # it would print what a client put into the address
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=farewell,
        )
    )
    # uvicorn ends gracefully and then raises the signal again: it has been obeyed.
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with address:
            server.run(sockets=[address])
    finally:
        signal.signal(signal.SIGTERM, before)
    if errors:
        raise errors[0]


def _open(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen at {host}, port {port}: {error}; give another --host or --port") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
