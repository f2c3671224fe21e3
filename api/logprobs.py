"""Log-probabilities in OpenAI's two shapes, each token with the part of the text that it spells.

A token spells bytes, often a part of a character only; the bytes of all tokens joined are the text.
"""

import codecs
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from generation import Delta, TokenLogprob
from prompts.encoder import Encoder
from protocol import ChatLogprobs, ChatTokenLogprob, CompletionLogprobs, TopLogprob

MIN_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON does not have."""


class Alternative(NamedTuple):
    """One of the likeliest tokens in a place."""

    name: bytes
    """What replies call the token."""
    spelling: bytes
    """The bytes that it would have added to the text."""
    logprob: float


@dataclass(slots=True)
class Token:
    """A token in its text."""

    spelling: bytes
    """The bytes that it adds to the text: none, if it is a control token that is left out."""
    name: bytes
    """What replies call the token: its spelling, or the text of a control token."""
    offset: int
    """Characters of the text that stand before it."""
    logprob: float | None
    top: list[Alternative]


class LogprobAligner:
    """Aligns the tokens of one choice, or of one prompt, with its text.

    Tokens come before their text: the engine holds text back while a character is incomplete or a stop string
    possible. A token is reported once all that it spells has been sent.
    """

    offset = 0
    """Characters of the text before the next token."""

    def __init__(self, encoder: Encoder, hides_control: bool) -> None:
        self._encoder = encoder
        self._control = encoder.control_texts
        self._hidden = self._control if hides_control else {}
        self._cut = b""
        """What the next token is spelt with and the text leaves out."""
        self._pending: deque[TokenLogprob] = deque()
        self._unspelt = 0
        """Bytes of text that have come and that no reported token spells."""
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def align(self, delta: Delta) -> list[Token]:
        """The tokens whose text has come with this delta.

        With the last delta these are all that are left: of what a stop string cuts off the text, the spelling of a
        token is cut off too, and a token that spells nothing else is left out. Calls have no log-probabilities.
        """
        if delta.call_index is not None:
            return []
        self._cut = delta.cut.encode() or self._cut
        self._pending += delta.logprobs or ()
        self._unspelt += len(delta.text.encode())
        if not delta.text and delta.finish_reason is None:
            return []
        aligned: list[Token] = []
        while self._pending:
            token = self._pending[0]
            whole = (
                b"" if token.token_id in self._hidden else self._encoder.token_bytes(token.token_id)
            )
            spelling = whole.removeprefix(self._cut)
            if len(spelling) > self._unspelt and delta.finish_reason is None:
                break
            self._pending.popleft()
            # At the end what is not in the text is of a stop string, of half a character, or a control token.
            if (
                self._unspelt
                or not spelling
                or delta.finish_reason == "length"
                or token.token_id in self._control
            ):
                aligned.append(self._place(token, spelling[: self._unspelt], spelling))
                self._unspelt = max(self._unspelt - len(spelling), 0)
            self._cut = b"" if whole else self._cut
        return aligned

    def align_prompt(self, logprobs: Sequence[TokenLogprob]) -> list[Token]:
        """All tokens of a prompt, whose text is their spellings joined."""
        spellings = self._encoder.decode_each([token.token_id for token in logprobs])
        return [
            self._place(token, b"" if token.token_id in self._hidden else spelling, spelling)
            for token, spelling in zip(logprobs, spellings, strict=True)
        ]

    def _place(self, token: TokenLogprob, spelling: bytes, uncut: bytes) -> Token:
        offset = self.offset
        self.offset += len(self._characters.decode(spelling))
        name = (
            self._control[token.token_id].encode()
            if token.token_id in self._control
            else spelling or uncut
        )
        top = [
            Alternative(name, spelling, _finite(logprob))
            if token_id == token.token_id
            else Alternative(*self._spell_alternative(token_id), _finite(logprob))
            for token_id, logprob in token.top
        ]
        return Token(
            spelling, name, offset, None if token.logprob is None else _finite(token.logprob), top
        )

    def _spell_alternative(self, token_id: int) -> tuple[bytes, bytes]:
        """A token's name, and what it would have added to the text: a control token nothing."""
        if token_id in self._control:
            return self._control[token_id].encode(), b""
        whole = self._encoder.token_bytes(token_id)
        spelling = whole.removeprefix(self._cut) or whole
        return spelling, spelling


def _finite(logprob: float) -> float:
    return max(logprob, MIN_LOGPROB)


def to_chat_logprobs(tokens: Sequence[Token]) -> ChatLogprobs:
    content = []
    for token in tokens:
        top = [
            TopLogprob(
                token=_to_text(other.name), logprob=other.logprob, bytes=list(other.spelling)
            )
            for other in token.top
        ]
        text, logprob = (
            _to_text(token.name),
            MIN_LOGPROB if token.logprob is None else token.logprob,
        )
        content.append(
            ChatTokenLogprob(
                token=text, logprob=logprob, bytes=list(token.spelling), top_logprobs=top
            )
        )
    return ChatLogprobs(content=content)


def _to_text(name: bytes) -> str:
    return name.decode(errors="replace")


def to_completion_logprobs(tokens: Sequence[Token]) -> CompletionLogprobs:
    """`top_logprobs` has the token itself too, as OpenAI's does."""
    return CompletionLogprobs(
        tokens=[_to_key(token.name) for token in tokens],
        token_logprobs=[token.logprob for token in tokens],
        text_offset=[token.offset for token in tokens],
        top_logprobs=[
            None if token.logprob is None else _to_top(token, token.logprob) for token in tokens
        ],
    )


def _to_top(token: Token, logprob: float) -> dict[str, float]:
    """Log-probabilities by token, the likeliest first; of two tokens with one name the generated or likelier one."""
    top: dict[str, float] = {}
    for other in token.top:
        top.setdefault(_to_key(other.name), other.logprob)
    top[_to_key(token.name)] = logprob
    return top


def _to_key(name: bytes) -> str:
    """A token as a key of JSON, as OpenAI writes it: its text, or `bytes:` and a part of a character in hexadecimal."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in name)
