"""One HTTP request: only http and https, redirects watched, every failure a `MirrorError` that says whether to retry.

The standard library's client is used, proxies of the environment included: downloads need nothing beyond it.
"""

import http.client
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import IO, Any

from grobust.data.fetch.sources import check_url
from grobust.errors import DataError, MirrorError

__all__ = ["Answer", "open_url"]

MOMENTARY = (408, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT_SECONDS = 60.0
MOST_REDIRECTS = 5
USER_AGENT = "grobust"


@dataclass(frozen=True)
class Answer:
    """An answer whose body has not been read.

    Parameters
    ----------
    status : 200 or 206
    start : byte of the file that the body begins with
    total : size of the whole file; None if the server does not say
    validator : strong ETag or Last-Modified date, for If-Range; None if there is none
    body : to read from
    """

    status: int
    start: int
    total: int | None
    validator: str | None
    body: IO[bytes]

    def blocks(self, size: int) -> Iterator[bytes]:
        """The body in blocks.

        Raises
        ------
        MirrorError
            If the connection breaks; what came before has been given out.
        """
        while True:
            with _failures():
                block = self.body.read(size)
            if not block:
                return
            yield block


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MOST_REDIRECTS
    max_repeats = 2

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        try:
            check_url(newurl)
        except DataError:
            raise MirrorError(f"it redirects to {newurl!r}, which is refused") from None
        if req.full_url.startswith("https:") and newurl.startswith("http:"):
            raise MirrorError(f"it redirects from https to {newurl!r} without encryption, which is refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Without the handlers for file:, ftp: and data: that `urlopen` would have."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


@contextmanager
def open_url(url: str, *, start: int = 0, validator: str | None = None, timeout_seconds: float) -> Iterator[Answer]:
    """Ask for a file, from byte `start` on if the server still has the version that `validator` names.

    Raises
    ------
    MirrorError
        If the answer is neither 200 nor 206, or does not come.
    """
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator is not None:
            headers["If-Range"] = validator
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the opener knows http and https only
    with _failures():
        response = _opener().open(request, timeout=timeout_seconds)
    with response:
        yield _answer(response)


def _answer(response: Any) -> Answer:
    status, headers = int(response.status), response.headers
    if status == http.HTTPStatus.OK:
        return Answer(status, 0, _length(headers), _validator(headers), response)
    if status != http.HTTPStatus.PARTIAL_CONTENT:
        raise MirrorError(f"it answers HTTP {status}, without a file", status=status)
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if not match:
        raise MirrorError(f"it sends a part that it does not name: {headers.get('Content-Range')!r}", retry=True)
    total = None if match[2] == "*" else int(match[2])
    return Answer(status, int(match[1]), total, _validator(headers), response)


def _length(headers: Message) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"\d{1,18}", text) else None


def _validator(headers: Message) -> str | None:
    etag = headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return str(etag)
    modified = headers.get("Last-Modified")
    return str(modified) if modified else None


@contextmanager
def _failures() -> Iterator[None]:
    """Turn the client's exceptions into `MirrorError`s."""
    try:
        yield
    except urllib.error.HTTPError as error:
        raise _http_failure(error) from None
    except urllib.error.URLError as error:
        raise _network_failure(error.reason) from None
    except http.client.HTTPException as error:
        raise MirrorError(f"the connection broke ({type(error).__name__})", retry=True) from None
    except OSError as error:
        raise _network_failure(error) from None


def _http_failure(error: urllib.error.HTTPError) -> MirrorError:
    with error:
        if 300 <= error.code < 400:
            return MirrorError(f"its redirect is refused: {error.reason}", status=error.code)
        wait = error.headers.get("Retry-After", "") if error.headers else ""
        seconds = min(float(wait), LONGEST_WAIT_SECONDS) if re.fullmatch(r"\d{1,9}", wait) else None
        retry = error.code in MOMENTARY
        return MirrorError(f"HTTP {error.code} {error.reason}", retry=retry, wait_seconds=seconds, status=error.code)


def _network_failure(reason: Any) -> MirrorError:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return MirrorError(f"its certificate is not valid: {reason.verify_message}")
    if isinstance(reason, socket.gaierror):
        return MirrorError("its name cannot be resolved; is there a network?", retry=reason.errno == socket.EAI_AGAIN)
    if isinstance(reason, TimeoutError):
        return MirrorError("it does not answer in time", retry=True)
    what = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return MirrorError(f"the connection failed: {what}", retry=True)
