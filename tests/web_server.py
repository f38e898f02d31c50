"""A web server on this machine that misbehaves as told."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Page:
    """What an address answers.

    `drop_after` closes the connection after that many bytes of a body, for the first `drops` requests. `statuses` are
    answered first, one per request. `etags` likewise replace the ETag.
    """

    content: bytes = b""
    etag: str | None = '"v1"'
    ranges: bool = True
    drop_after: int | None = None
    drops: int = 10**9
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    location: str | None = None
    length: bool = True
    stated_length: int | None = None
    wrong_range: bool = False
    changed: bytes | None = None
    requests: list[dict[str, str]] = field(default_factory=list)


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is no error."""


class Handler(BaseHTTPRequestHandler):
    """Serves the pages of its server."""

    server: Any

    def do_GET(self) -> None:
        page: Page | None = self.server.pages.get(self.path)
        if page is None:
            self.send_error(404)
            return
        page.requests.append(dict(self.headers))
        if page.statuses:
            status = page.statuses.pop(0)
            self.send_response(status)
            for key, value in page.headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if page.location is not None:
            self.send_response(302)
            self.send_header("Location", page.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._body(page)

    def _body(self, page: Page) -> None:
        if page.changed is not None and len(page.requests) > 1:
            page.content, page.etag, page.changed = page.changed, '"v2"', None
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if page.ranges and asked and condition in (None, page.etag):
            start = int(asked[1])
            if start >= len(page.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(page.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        shift = 1 if page.wrong_range and start else 0
        body = page.content[start + shift :]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + shift}-{len(page.content) - 1}/{len(page.content)}")
        if page.length:
            self.send_header("Content-Length", str(page.stated_length or len(body)))
        if page.etag:
            self.send_header("ETag", page.etag)
        self.end_headers()
        if page.drop_after is not None and page.drops > 0:
            page.drops -= 1
            body = body[: page.drop_after]
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        """Silent."""


@contextmanager
def web_server() -> Iterator[tuple[str, dict[str, Page]]]:
    """Address of a running server, and its pages to fill."""
    server = _Server(("127.0.0.1", 0), Handler)
    server.pages = {}  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.pages  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
