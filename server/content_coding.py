"""Request bodies that arrive compressed (RFC 9110, section 8.4): gzip and deflate, decompressed up to a limit."""

import re
import zlib
from collections.abc import Sequence

from errors import APIError, bad_request

GZIP_FORMAT = 16 + zlib.MAX_WBITS
ZLIB_FORMAT = zlib.MAX_WBITS
RAW_DEFLATE_FORMAT = -zlib.MAX_WBITS
"""The formats as zlib's `wbits` name them."""
CODINGS = {"": None, "identity": None, "gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
ACCEPTED = "gzip, deflate"
MAX_MEMBERS = 16
"""Of one gzip body; at the end of each, all that follows is copied."""
PRINTABLE = re.compile("[ -~]{1,40}")


def to_coding(fields: Sequence[bytes]) -> str | None:
    """The coding that a request's Content-Encoding fields name: `gzip`, `deflate`, or None for a body as it is.

    Raises APIError (415) for any other, and for more than one.
    """
    named = b", ".join(fields).decode("latin-1").strip()
    if named.lower() in CODINGS:
        return CODINGS[named.lower()]
    shown = f" '{named[:40]}'" if PRINTABLE.fullmatch(named[:40]) else ""
    message = f"The Content-Encoding{shown} is not supported: send gzip or deflate, one of them and once, or none."
    raise APIError(415, message, headers={"Accept-Encoding": ACCEPTED})


def decompress(data: bytes, coding: str, max_bytes: int) -> bytes:
    """`data`, decompressed; raises APIError if it is invalid (400) or has more than `max_bytes` (413).

    Never more than one byte beyond `max_bytes` is decompressed.
    """
    body = b""
    for _ in range(MAX_MEMBERS):
        decoder = zlib.decompressobj(GZIP_FORMAT if coding == "gzip" else _deflate_format(data))
        try:
            body += decoder.decompress(data, max_bytes + 1 - len(body))
        except zlib.error as failure:
            raise bad_request(f"The request body is not valid {coding} data.") from failure
        if len(body) > max_bytes:
            message = f"The request body is larger than {max_bytes} bytes once it is decompressed."
            raise APIError(413, message)
        if not decoder.eof:
            raise bad_request(f"The request body ends before its {coding} data does.")
        if not decoder.unused_data:
            return body
        if coding == "deflate":
            raise bad_request("The request body goes on after the end of its deflate data.")
        data = decoder.unused_data  # the next member (RFC 1952, section 2.2)
    raise bad_request(f"The request body has more than {MAX_MEMBERS} gzip members.")


def _deflate_format(data: bytes) -> int:
    """HTTP's deflate is the zlib format (RFC 9110, section 8.4.1.2), but some clients send raw deflate data.

    The zlib format has a header of two bytes: the compression method in the lower half of the first, and together, as
    a number, a multiple of 31 (RFC 1950, section 2.2).
    """
    method = int.from_bytes(data[:1]) & 0x0F
    has_header = method == zlib.DEFLATED and int.from_bytes(data[:2]) % 31 == 0
    return ZLIB_FORMAT if has_header else RAW_DEFLATE_FORMAT
