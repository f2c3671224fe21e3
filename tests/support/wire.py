"""Requests and replies as bytes on a socket."""

import json
import socket
import struct
import time
from contextlib import suppress
from typing import Any

import httpx

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
"""How the head of a request begins."""


def posted(path: str, content: dict[str, Any] | str | bytes, *fields: str) -> bytes:
    """A request as it is on the wire."""
    text = json.dumps(content) if isinstance(content, dict) else content
    body = text.encode() if isinstance(text, str) else text
    head = "\r\n".join(
        (f"POST {path} HTTP/1.1", "Host: x", *fields, f"Content-Length: {len(body)}")
    )
    return f"{head}\r\n\r\n".encode() + body


def exchange(url: str, *pieces: bytes, pause: float = 0.05) -> bytes:
    """What comes back for the pieces, until the server closes."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=10) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:
                break  # it has been closed already
            time.sleep(pause)
        heard = b""
        try:
            while piece := connection.recv(65536):
                heard += piece
        except OSError:
            pass
        return heard


def parsed(heard: bytes) -> httpx.Response:
    """The one reply, not chunked, that was heard."""
    head, _, content = heard.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    return httpx.Response(int(line.split()[1]), headers=headers, content=content)


def received(connection: socket.socket) -> bytes:
    """The next bytes; none at the end, however it came."""
    try:
        return connection.recv(65536)
    except ConnectionError:
        return b""


def reset(connection: socket.socket) -> None:
    """Close it as if the machine had gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def answer_to(url: httpx.URL, sent: bytes) -> bytes:
    """How it begins, when all has come; the server may end the connection before it has heard everything."""
    with socket.create_connection((url.host, url.port), timeout=120) as connection:
        begun = b""
        with suppress(ConnectionError):
            connection.sendall(sent)
        with suppress(ConnectionError):
            while piece := connection.recv(2**20):
                begun = begun or piece
        return begun
