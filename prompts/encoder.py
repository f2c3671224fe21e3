"""Text runs and control ids -> token ids, so that text never becomes a control token.

A prompt is a sequence of runs: a `str` is text, whoever wrote it; an `int` is the id of a control token, which only a
template can put there. Knows nothing about templates, requests or engines. Decoding here is for people to read
(`/detokenize`); what a model generates is detokenised by the engine.
"""

import copy
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

from model_files import find_file, read_config, read_json_object
from settings import Settings, StartError, raising_start_error

EncodeText = Callable[[str], list[int]]
Run = str | int | None
"""None stands for a control token that the tokenizer lacks."""


class SentencePieceEncoder:
    """SentencePiece on the model's own `tokenizer.model`: the ids that LLaMA models were trained on."""

    description = "SentencePiece on tokenizer.model"
    max_token_characters: int | None = None
    """No token stands for more; None if that cannot be said."""

    def __init__(
        self, model_file: str | Path, added_tokens: Mapping[str, int] | None = None
    ) -> None:
        """`added_tokens`: control tokens that the tokenizer has besides the file's, text -> id."""
        proto = _read_proto(Path(model_file))
        kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
        no_text = (kinds.CONTROL, kinds.UNUSED)
        self.text_size = 0
        """Text has ids below that."""
        self.control_ids: dict[str, int] = dict(added_tokens or {})
        """The text of each control token -> its id."""
        for piece_id, piece in enumerate(proto.pieces):
            if piece.type not in no_text:
                self.text_size = piece_id + 1
            # A user-defined piece is matched in any text; as a control piece it is not.
            if piece.type == kinds.USER_DEFINED and piece.piece in self.control_ids:
                piece.type = kinds.CONTROL
            if piece.type in (kinds.CONTROL, kinds.UNKNOWN):
                self.control_ids[piece.piece] = piece_id
        self._processor = SentencePieceProcessor(model_proto=proto.SerializeToString())
        self.control_texts = _by_id(self.control_ids)
        # SentencePiece says -1 for a token that it was trained without.
        bos_id, eos_id = self._processor.bos_id(), self._processor.eos_id()
        self.bos_id = None if bos_id < 0 else bos_id
        self.eos_id = None if eos_id < 0 else eos_id
        """The ids that begin and end a text, where the tokenizer puts them."""
        normalizer, is_whole = proto.normalizer_spec, proto.trainer_spec.byte_fallback
        if is_whole and normalizer.name == "identity" and not normalizer.remove_extra_whitespaces:
            self.max_token_characters = max(len(piece.piece) for piece in proto.pieces)

    def encode(self, runs: Sequence[Run]) -> list[int]:
        return _encode_each(runs, self._processor.encode)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` with control tokens spelt out; raises ValueError for an id outside the vocabulary."""
        _check_range(ids, self._processor.vocab_size(), self.control_texts)
        return b"".join(self.spell(ids)).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """What a token is spelt as in the midst of a text, perhaps a part of a character; nothing for no token."""
        return self._spellings.get(token_id, b"")

    @cached_property
    def _spellings(self) -> dict[int, bytes]:
        ids = list(range(self._processor.vocab_size()))
        pieces = self._processor.id_to_piece(ids)
        spellings = dict(zip(ids, map(_to_bytes, pieces), strict=True))
        for text, token_id in self.control_ids.items():
            spellings[token_id] = text.encode()
        return spellings

    def ids_spelt(self, text: str) -> frozenset[int]:
        """All tokens that are spelt so in the midst of a text."""
        spelling = text.encode()
        spelt = self._spellings.items()
        return frozenset(token_id for token_id, own in spelt if own == spelling)

    def spell(self, ids: Sequence[int]) -> list[bytes]:
        """What each of `ids` is spelt as: joined, the text that `decode` gives."""
        spellings, controls = self._spellings, self.control_texts
        spelt = [spellings.get(token_id, b"") for token_id in ids]
        # SentencePiece puts a space before each text that it encodes.
        begins_text = True
        for at, token_id in enumerate(ids):
            if begins_text:
                spelt[at] = spelt[at].removeprefix(b" ")
            begins_text = token_id in controls
        return spelt


class TokenizerEncoder:
    """The same on a tokenizer of transformers, for models without a LLaMA `tokenizer.model`."""

    max_token_characters: int | None = None

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.description = f"transformers' {type(tokenizer).__name__}"
        # A second copy: the switch for control tokens is the tokenizer's own state, not the call's.
        text_only = copy.deepcopy(tokenizer)
        self._encode_text = partial(
            text_only.encode, add_special_tokens=False, split_special_tokens=True
        )
        self.control_ids: dict[str, int] = {
            token.content: token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special
        }
        self.control_texts = _by_id(self.control_ids)
        ids = set(tokenizer.get_vocab().values())
        text_ids = ids - self.control_texts.keys()
        self.text_size = 1 + max(text_ids, default=-1)
        self._byte_of: Mapping[str, int] = {}
        if "ByteLevel" in repr(getattr(tokenizer, "backend_tokenizer", "")):
            self._byte_of = _byte_alphabet()
        self.bos_id: int | None = None
        if tokenizer.encode("")[:1] == [tokenizer.bos_token_id]:
            self.bos_id = tokenizer.bos_token_id
        self.eos_id: int | None = tokenizer.eos_token_id

    def encode(self, runs: Sequence[Run]) -> list[int]:
        """The ids; in one pass, as the model's own code does it, unless that finds control tokens in text."""
        present = [run for run in runs if run is not None]
        joined = "".join(
            run if isinstance(run, str) else self.control_texts[run] for run in present
        )
        ids = list(self.tokenizer.encode(joined, add_special_tokens=False))
        controls = [token_id for token_id in ids if token_id in self.control_texts]
        wanted = [run for run in present if isinstance(run, int)]
        if controls == wanted:
            return ids
        return _encode_each(present, self._encode_text)

    def decode(self, ids: Sequence[int]) -> str:
        _check_range(ids, len(self.tokenizer))
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def token_bytes(self, token_id: int) -> bytes:
        piece = str(self.tokenizer.convert_ids_to_tokens(token_id) or "")
        if not self._byte_of or token_id in self.control_texts:
            return _to_bytes(piece)
        spelling = bytearray()
        for character in piece:
            if character not in self._byte_of:
                return _to_bytes(piece)
            spelling.append(self._byte_of[character])
        return bytes(spelling)

    def ids_spelt(self, text: str) -> frozenset[int]:
        spelling = text.encode()
        return frozenset(
            token_id
            for token_id in range(len(self.tokenizer))
            if self.token_bytes(token_id) == spelling
        )

    def spell(self, ids: Sequence[int]) -> list[bytes]:
        spelt = [self.token_bytes(token_id) for token_id in ids]
        if spelt and not self._byte_of:
            spelt[0] = spelt[0].removeprefix(b" ")
        return spelt


Encoder = SentencePieceEncoder | TokenizerEncoder


def encode_word(encoder: Encoder, word: str) -> list[list[int]]:
    """The ids of a word where it begins a text and in the midst of one, as far as they differ."""
    begun = encoder.encode([word])
    line = encoder.encode(["\n"])
    after_line = encoder.encode([f"\n{word}"])
    forms = [begun]
    if after_line[: len(line)] == line:
        forms.append(after_line[len(line) :])
    found: list[list[int]] = []
    for ids in forms:
        begins_with_space = bool(ids) and encoder.token_bytes(ids[0]) == b" "
        own = ids[1:] if begins_with_space else ids
        if own and own not in found:
            found.append(own)
    return found


def _encode_each(runs: Sequence[Run], encode_text: EncodeText) -> list[int]:
    ids: list[int] = []
    for run in runs:
        if isinstance(run, str):
            ids += encode_text(run)
        elif run is not None:
            ids.append(run)
    return ids


def _by_id(control_ids: Mapping[str, int]) -> dict[int, str]:
    return {token_id: text for text, token_id in control_ids.items()}


def _to_bytes(piece: str) -> bytes:
    """How SentencePiece names its pieces: a byte by its number, a space by a sign."""
    if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
        return bytes.fromhex(byte[1])
    return piece.replace("▁", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level BPE names bytes (GPT-2's)."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode  # noqa: PLC0415 - slow to import

    return {character: byte for byte, character in bytes_to_unicode().items()}


def control_pattern(control_ids: Mapping[str, int]) -> re.Pattern[str]:
    """One group that matches any control token's text, the longest first; with no control tokens, nothing."""
    texts = sorted(filter(None, control_ids), key=len, reverse=True)
    if not texts:
        return re.compile("((?!))")
    alternatives = "|".join(map(re.escape, texts))
    return re.compile(f"({alternatives})")


def load_encoder(settings: Settings) -> Encoder:
    """The encoder that the settings name, or that fits the model; raises StartError."""
    mode, name = settings.tokenizer_mode, settings.tokenizer_path
    model_file = find_file(name, "tokenizer.model", settings.revision)
    if mode == "slow" and model_file is None:
        raise StartError(
            f"--tokenizer-mode slow needs a SentencePiece tokenizer.model, and {name} has none."
        )
    config = read_json_object(find_file(name, "tokenizer_config.json", settings.revision))
    if model_file is None or mode not in ("slow", "auto"):
        return TokenizerEncoder(load_tokenizer(settings))
    if mode == "auto" and not _fits_llama(settings, config, model_file):
        return TokenizerEncoder(load_tokenizer(settings))
    return SentencePieceEncoder(model_file, _special_tokens(config))


def _fits_llama(settings: Settings, tokenizer_config: Mapping[str, Any], model_file: Path) -> bool:
    """Whether SentencePiece encodes as the model was trained; LLaMA's label has had many spellings, so its type counts.

    Others say by their label that they were trained like LLaMA.
    """
    label = str(tokenizer_config.get("tokenizer_class") or "LlamaTokenizer")
    if "llama" not in label.lower():
        model_type = read_config(settings).get("model_type")
        if model_type != "llama":
            return False
    # LLaMA-3's own file of that name is tiktoken's; SentencePiece's begins with a piece: protobuf's field 1.
    if model_file.read_bytes().startswith(b"\n"):
        return True
    other = find_file(settings.tokenizer_path, "tokenizer.json", settings.revision)
    return other is None


def _special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, int]:
    added = tokenizer_config.get("added_tokens_decoder") or {}
    try:
        special: dict[str, int] = {}
        for token_id, token in added.items():
            if token.get("special"):
                special[token["content"]] = int(token_id)
        return special
    except (AttributeError, KeyError, TypeError, ValueError) as failure:
        raise StartError(
            "added_tokens_decoder in tokenizer_config.json does not map ids to tokens."
        ) from failure


def _read_proto(file: Path) -> Any:
    try:
        proto = sentencepiece_model_pb2.ModelProto.FromString(file.read_bytes())
    except (OSError, DecodeError) as failure:
        raise StartError(f"{file} is not a SentencePiece model.") from failure
    if not (proto.pieces and proto.HasField("trainer_spec")):  # which stands behind the pieces
        raise StartError(f"{file} is not a whole SentencePiece model.")
    return proto


def load_tokenizer(settings: Settings) -> Any:
    """The tokenizer of transformers, whose import is slow: only where one is needed. Raises StartError."""
    from transformers import AutoTokenizer  # noqa: PLC0415

    name, remote_code = settings.tokenizer_path, settings.trust_remote_code
    with raising_start_error(f"No tokenizer can be loaded from {name}"):
        return AutoTokenizer.from_pretrained(
            name, revision=settings.revision, trust_remote_code=remote_code
        )


def _check_range(ids: Sequence[int], vocabulary_size: int, also: Collection[int] = ()) -> None:
    for token_id in set(ids):
        is_piece = 0 <= token_id < vocabulary_size
        if not is_piece and token_id not in also:
            raise ValueError(f"token id {token_id} is outside the vocabulary")
