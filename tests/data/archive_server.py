"""A web server for one test: it serves archives, each in its own wrong way."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Handler", "Served"], None]


class Served:
    """What was asked for, and what the answers need."""

    def __init__(self, content: bytes, answers: list[Answer]) -> None:
        self.content, self.answers = content, answers
        self.asked: list[str | None] = []  # the Range of each request
        self.closing = threading.Event()


class Handler(BaseHTTPRequestHandler):
    served: Served

    def do_GET(self) -> None:
        """The first request gets the first answer, those after the last one the last."""
        served = self.served
        served.asked.append(self.headers.get("Range"))
        answers = served.answers
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has had enough
            answers[min(len(served.asked), len(answers)) - 1](self, served)
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass

    def begin(self, code: int, length: int | None = None, **headers: str) -> None:
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()


@contextmanager
def serving(content: bytes, *answers: Answer) -> Iterator[tuple[str, Served]]:
    """Its address, without a path, and what it was asked for."""
    served = Served(content, list(answers))
    handler = type("OneHandler", (Handler,), {"served": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", served
    finally:
        served.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def whole(handler: Handler, served: Served) -> None:
    handler.begin(200, len(served.content), ETag='"a"')
    handler.wfile.write(served.content)


def resumed(handler: Handler, served: Served) -> None:
    """From where it is asked for, or 416."""
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    size = len(served.content)
    if asked is None:
        return whole(handler, served)
    begin = int(asked[1])
    if begin >= size:
        return handler.begin(416, 0)
    part = f"bytes {begin}-{size - 1}/{size}"
    handler.begin(206, size - begin, Content_Range=part, ETag='"a"')
    handler.wfile.write(served.content[begin:])
    return None


def cut(share: float) -> Answer:
    """The connection ends after that share of it."""

    def answer(handler: Handler, served: Served) -> None:
        handler.begin(200, len(served.content), ETag='"a"')
        handler.wfile.write(served.content[: int(share * len(served.content))])

    return answer


def stalled(handler: Handler, served: Served) -> None:
    """A beginning, and then nothing."""
    handler.begin(200, len(served.content), ETag='"a"')
    handler.wfile.write(served.content[:1000])
    handler.wfile.flush()
    served.closing.wait(60)


def dripping(handler: Handler, served: Served) -> None:
    """A byte now and then."""
    handler.begin(200, len(served.content))
    for place in range(len(served.content)):
        handler.wfile.write(served.content[place : place + 1])
        handler.wfile.flush()
        if served.closing.is_set():
            return
        time.sleep(0.05)


def told(length: int) -> Answer:
    """All of it, said to be longer or shorter by so much."""

    def answer(handler: Handler, served: Served) -> None:
        handler.begin(200, len(served.content) + length)
        handler.wfile.write(served.content)

    return answer


def code(number: int) -> Answer:
    return lambda handler, served: handler.begin(number, 0)


def circle(handler: Handler, served: Served) -> None:
    handler.begin(302, 0, Location=handler.path)


def page(handler: Handler, served: Served) -> None:
    text = b"<!DOCTYPE html><html><body>Please accept our terms</body></html>"
    handler.begin(200, len(text), Content_Type="text/html")
    handler.wfile.write(text)
