"""Bodies that arrive compressed: which codings are read, and what comes out, up to a limit."""

import re
import zlib
from collections.abc import Sequence

from errors import APIError, bad_request

GZIP, ZLIB, RAW_DEFLATE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
"""How zlib is told what to expect, in its `wbits`."""
CODINGS = {"": None, "identity": None, "gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
ACCEPTED = "gzip, deflate"
MAX_MEMBERS = 16
"""Of one gzip body: each costs a copy of all that follow it."""
SHOWN = re.compile("[ -~]{1,40}")


def to_coding(fields: Sequence[bytes]) -> str | None:
    """How a body is compressed, by its Content-Encoding fields: None for one as it is; raises APIError (415)."""
    named = b", ".join(fields).decode("latin-1").strip()
    if named.lower() in CODINGS:
        return CODINGS[named.lower()]
    shown = f" '{named[:40]}'" if SHOWN.fullmatch(named[:40]) else ""
    message = f"The Content-Encoding{shown} is not supported: send gzip or deflate, one of them and once, or none."
    raise APIError(415, message, headers={"Accept-Encoding": ACCEPTED})


def decompress(sent: bytes, coding: str, max_bytes: int) -> bytes:
    """What a body says; raises APIError, without making more of it, if that is more than `max_bytes` (413)."""
    body = b""
    for _ in range(MAX_MEMBERS):
        decoder = zlib.decompressobj(GZIP if coding == "gzip" else _deflate_format(sent))
        try:
            body += decoder.decompress(sent, max_bytes + 1 - len(body))
        except zlib.error as failure:
            raise bad_request(f"The request body is not valid {coding} data.") from failure
        if len(body) > max_bytes:
            raise APIError(
                413, f"The request body is larger than {max_bytes} bytes once it is decompressed."
            )
        if not decoder.eof:
            raise bad_request(f"The request body ends before its {coding} data does.")
        if not decoder.unused_data:
            return body
        if coding == "deflate":
            raise bad_request("The request body goes on after the end of its deflate data.")
        sent = decoder.unused_data  # another member (RFC 1952, 2.2)
    raise bad_request(f"The request body has more than {MAX_MEMBERS} gzip members.")


def _deflate_format(sent: bytes) -> int:
    """HTTP's deflate is zlib's format (RFC 9110, 8.4.1.2), but some clients leave its two bytes of head out."""
    is_zlib = sent[:1] and sent[0] & 0x0F == zlib.DEFLATED and int.from_bytes(sent[:2]) % 31 == 0
    return ZLIB if is_zlib else RAW_DEFLATE
