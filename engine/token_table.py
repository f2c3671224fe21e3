"""Token ids -> text by a table, for tokenizers whose tokens are either texts or single bytes, as SentencePiece's are.

What one token adds to a text depends on others only where it is a byte of a character, or the space that is left out at
the beginning of a whole text. So a look-up takes the place of a detokenizer that decodes several tokens for each.

Bytes that are no characters (UTF-8) each become U+FFFD, as SentencePiece has it. vLLM's detokenizer makes more of them:
also of the whole characters around, if these are spelt by bytes too, and it may lose some of both.
"""

import codecs
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from transformers import TokenizersBackend
from vllm.sampling_params import SamplingParams
from vllm.tokenizers import TokenizerLike

SPACE, UNKNOWN = "\u2581", "\ufffd"
"""How a vocabulary of SentencePiece spells a space, and what stands for a byte that is of no character."""
DECODERS = ["Replace", "ByteFallback", "Fuse", "Strip"]
"""The steps of a decoder (Hugging Face's tokenizers) that the table stands for; the last may be missing."""
BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
"""How it spells a byte."""
BYTE_ERRORS = "one-unknown-for-each-byte"


def _to_unknown(failure: UnicodeError) -> tuple[str, int]:
    assert isinstance(failure, UnicodeDecodeError)
    return UNKNOWN * (failure.end - failure.start), failure.end


codecs.register_error(BYTE_ERRORS, _to_unknown)


@dataclass(frozen=True, slots=True)
class TokenTable:
    """What each token of a vocabulary adds to a text."""

    texts: Sequence[str | None]
    """By token id, for all that a model can generate; None: the token is one of `pieces`."""
    pieces: dict[int, bytes]
    """Bytes, and texts that end with U+FFFD, which may be parts of characters: they wait for what follows."""

    def fits(self, prompt_ids: Sequence[int], params: SamplingParams) -> bool:
        """Whether an answer to this prompt, without stop strings, has the text that the table makes of its tokens.

        The prompt has to end with a text: after a byte, or where there is no text yet, an answer goes on differently.
        """
        is_plain = params.detokenize and params.skip_special_tokens
        return bool(is_plain and prompt_ids and self.texts[prompt_ids[-1]])


def to_token_table(tokenizer: TokenizerLike, vocabulary_size: int) -> TokenTable | None:
    """Make the table of a tokenizer; None for one that decodes in other ways than SentencePiece does.

    Special tokens add nothing, nor do ids up to `vocabulary_size` for which there are no tokens.
    """
    if not isinstance(tokenizer, TokenizersBackend):
        return None
    backend = tokenizer._tokenizer
    decoder = json.loads(backend.to_str())["decoder"] or {}
    steps = [step["type"] for step in decoder.get("decoders", ())]
    if steps not in (DECODERS, DECODERS[:-1]) or decoder["decoders"][0]["content"] != " ":
        return None
    special = {
        token_id for token_id, token in backend.get_added_tokens_decoder().items() if token.special
    }
    texts: list[str | None] = []
    pieces: dict[int, bytes] = {}
    for token_id in range(vocabulary_size):
        token = cast("str | None", backend.id_to_token(token_id))
        text = "" if token is None or token_id in special else token.replace(SPACE, " ")
        if byte := BYTE.fullmatch(text):
            pieces[token_id] = bytes.fromhex(byte[1])
        elif text.endswith(UNKNOWN):
            pieces[token_id] = text.encode()
        texts.append(None if token_id in pieces else text)
    return TokenTable(texts, pieces)


class TableText:
    """The text of one choice, made of its tokens by a table that fits it (`TokenTable.fits`)."""

    def __init__(self, table: TokenTable) -> None:
        self._texts, self._pieces = table.texts, table.pieces
        self._waiting = b""
        """Pieces that are no whole characters yet, or not yet known to be none."""

    def add(self, token_ids: Sequence[int]) -> str:
        """Add the next tokens; returns the text that they add, without a last character that is not complete."""
        if len(token_ids) == 1 and not self._waiting:
            text = self._texts[token_ids[0]]
            return self._add_piece(token_ids[0]) if text is None else text
        return "".join(map(self._add_one, token_ids))

    def _add_one(self, token_id: int) -> str:
        text = self._texts[token_id]
        if text is None:
            return self._add_piece(token_id)
        if text and self._waiting:
            text = self._waiting.decode(errors=BYTE_ERRORS) + text
            self._waiting = b""
        return text

    def _add_piece(self, token_id: int) -> str:
        self._waiting += self._pieces[token_id]
        text = self._waiting.decode(errors=BYTE_ERRORS)
        if text.endswith(UNKNOWN):
            return ""
        self._waiting = b""
        return text
