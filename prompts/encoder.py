"""Text and control tokens -> token ids, so that no text is ever encoded to a control token.

A prompt is a sequence of runs: a `str` is text, whoever wrote it; an `int` is the id of a control token, such as `<s>`,
which only a prompt template puts there. Decoding here serves `/detokenize`, log-probabilities and the log; the text of
an answer is made by vLLM's detokenizer. Knows nothing about templates, requests or engines.
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

Run = str | int | None
"""A text, the id of a control token, or None: a control token that the tokenizer lacks, which is left out."""


class SentencePieceEncoder:
    """Encodes by SentencePiece with the model's own `tokenizer.model`: to the ids that LLaMA models were trained on."""

    description = "SentencePiece on tokenizer.model"
    max_token_characters: int | None = None
    """The most characters of a text that one token can stand for; None if there is no such limit."""

    def __init__(
        self, model_file: str | Path, added_tokens: Mapping[str, int] | None = None
    ) -> None:
        """Read `model_file`; raises StartError for one that is not whole.

        `added_tokens`: control tokens of the tokenizer besides those of the file, their text -> id.
        """
        proto = _read_proto(Path(model_file))
        kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
        self.text_vocabulary_size = 0
        """One more than the highest id that text can be encoded to."""
        self.control_ids: dict[str, int] = dict(added_tokens or {})
        """The text of each control token -> its id; `control_texts` is the inverse."""
        for piece_id, piece in enumerate(proto.pieces):
            if piece.type not in (kinds.CONTROL, kinds.UNUSED):
                self.text_vocabulary_size = piece_id + 1
            # SentencePiece finds a user-defined piece in any text, and a control piece in none.
            if piece.type == kinds.USER_DEFINED and piece.piece in self.control_ids:
                piece.type = kinds.CONTROL
            if piece.type in (kinds.CONTROL, kinds.UNKNOWN):
                self.control_ids[piece.piece] = piece_id
        self._processor = SentencePieceProcessor(model_proto=proto.SerializeToString())
        self.control_texts = _by_id(self.control_ids)
        # SentencePiece gives -1 for a token that it was trained without.
        bos_id, eos_id = self._processor.bos_id(), self._processor.eos_id()
        self.bos_id = None if bos_id < 0 else bos_id
        """The id of the token that begins a text, `<s>`; None if the tokenizer puts none there."""
        self.eos_id = None if eos_id < 0 else eos_id
        """The id of the token that ends a text, `</s>`; None if the tokenizer has none."""
        normalizer = proto.normalizer_spec
        drops_characters = normalizer.name != "identity" or normalizer.remove_extra_whitespaces
        # Without byte fallback, one <unk> stands for any number of unknown characters.
        if proto.trainer_spec.byte_fallback and not drops_characters:
            self.max_token_characters = max(len(piece.piece) for piece in proto.pieces)

    def encode(self, runs: Sequence[Run]) -> list[int]:
        """Encode each run on its own; adds neither `bos_id` nor `eos_id`."""
        return _encode_each(runs, self._processor.encode)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, control tokens spelt out; raises ValueError for an id outside the vocabulary."""
        _check_range(ids, self._processor.vocab_size(), self.control_texts)
        return b"".join(self.decode_each(ids)).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return a token's UTF-8 within a text, perhaps a part of a character; empty for an id outside the vocabulary.

        A control token gives its own text, such as `</s>`.
        """
        return self._bytes_by_id.get(token_id, b"")

    @cached_property
    def _bytes_by_id(self) -> dict[int, bytes]:
        ids = range(self._processor.vocab_size())
        pieces = self._processor.id_to_piece(list(ids))
        bytes_by_id = dict(enumerate(map(_piece_to_bytes, pieces)))
        for text, token_id in self.control_ids.items():
            bytes_by_id[token_id] = text.encode()
        return bytes_by_id

    def ids_spelt_as(self, text: str) -> frozenset[int]:
        """Return the ids of all tokens whose `token_bytes` are `text`."""
        wanted = text.encode()
        tokens = self._bytes_by_id.items()
        return frozenset(token_id for token_id, spelling in tokens if spelling == wanted)

    def decode_each(self, ids: Sequence[int]) -> list[bytes]:
        """Return the UTF-8 of each token where it stands in `ids`: joined, the text that `decode` gives."""
        decoded = [self.token_bytes(token_id) for token_id in ids]
        # SentencePiece puts a space before each text that it encodes.
        begins_text = True
        for at, token_id in enumerate(ids):
            if begins_text:
                decoded[at] = decoded[at].removeprefix(b" ")
            begins_text = token_id in self.control_texts
        return decoded


class TokenizerEncoder:
    """Encodes by a tokenizer of transformers, for models without LLaMA's `tokenizer.model`.

    Attributes and methods are those of `SentencePieceEncoder`.
    """

    max_token_characters: int | None = None

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.description = f"transformers' {type(tokenizer).__name__}"
        # A copy, because `split_special_tokens` sets the state of a tokenizer, which calls in other threads share.
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
        text_ids = set(tokenizer.get_vocab().values()) - self.control_texts.keys()
        self.text_vocabulary_size = 1 + max(text_ids, default=-1)
        self._byte_of: Mapping[str, int] = {}
        """The byte that each character of a piece stands for, in byte-level BPE; empty for other tokenizers."""
        if "ByteLevel" in repr(getattr(tokenizer, "backend_tokenizer", "")):
            self._byte_of = _byte_alphabet()
        self.bos_id: int | None = None
        # Some tokenizers, such as GPT-2's, have a token to begin a text with, but do not put it there.
        if tokenizer.encode("")[:1] == [tokenizer.bos_token_id]:
            self.bos_id = tokenizer.bos_token_id
        self.eos_id: int | None = tokenizer.eos_token_id

    def encode(self, runs: Sequence[Run]) -> list[int]:
        """Encode all runs as one string, as the model was trained; each on its own if text spells a control token."""
        present = [run for run in runs if run is not None]
        joined = "".join(
            run if isinstance(run, str) else self.control_texts[run] for run in present
        )
        ids = list(self.tokenizer.encode(joined, add_special_tokens=False))
        found = [token_id for token_id in ids if token_id in self.control_texts]
        wanted = [run for run in present if isinstance(run, int)]
        if found == wanted:
            return ids
        return _encode_each(present, self._encode_text)

    def decode(self, ids: Sequence[int]) -> str:
        _check_range(ids, len(self.tokenizer))
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def token_bytes(self, token_id: int) -> bytes:
        piece = str(self.tokenizer.convert_ids_to_tokens(token_id) or "")
        is_byte_level = self._byte_of.keys() >= set(piece)  # added tokens may be plain text
        if token_id in self.control_texts or not is_byte_level:
            return _piece_to_bytes(piece)
        return bytes(self._byte_of[character] for character in piece)

    def ids_spelt_as(self, text: str) -> frozenset[int]:
        wanted = text.encode()
        return frozenset(
            token_id
            for token_id in range(len(self.tokenizer))
            if self.token_bytes(token_id) == wanted
        )

    def decode_each(self, ids: Sequence[int]) -> list[bytes]:
        decoded = [self.token_bytes(token_id) for token_id in ids]
        # Tokenizers that are not byte-level put a space before a text, as SentencePiece does.
        if decoded and not self._byte_of:
            decoded[0] = decoded[0].removeprefix(b" ")
        return decoded


Encoder = SentencePieceEncoder | TokenizerEncoder


def encode_word(encoder: Encoder, word: str) -> list[list[int]]:
    """Return the one or two sequences of ids that a word is encoded to: at the beginning of a text, and on a new line.

    A first token that is only a space is left out.
    """
    newline = encoder.encode(["\n"])
    on_new_line = encoder.encode([f"\n{word}"])
    encoded = [encoder.encode([word])]
    if on_new_line[: len(newline)] == newline:
        encoded.append(on_new_line[len(newline) :])
    sequences: list[list[int]] = []
    for ids in encoded:
        begins_with_space = bool(ids) and encoder.token_bytes(ids[0]) == b" "
        own = ids[1:] if begins_with_space else ids
        if own and own not in sequences:
            sequences.append(own)
    return sequences


def _encode_each(runs: Sequence[Run], encode_text: Callable[[str], list[int]]) -> list[int]:
    """Encode each text with `encode_text`, and take over ids as they are."""
    ids: list[int] = []
    for run in runs:
        if isinstance(run, str):
            ids += encode_text(run)
        elif run is not None:
            ids.append(run)
    return ids


def _by_id(control_ids: Mapping[str, int]) -> dict[int, str]:
    return {token_id: text for text, token_id in control_ids.items()}


def _piece_to_bytes(piece: str) -> bytes:
    """Return the UTF-8 of a SentencePiece piece, in which `<0x0A>` is the byte 0x0A, and `▁` a space."""
    if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", piece):
        return bytes.fromhex(byte[1])
    return piece.replace("▁", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """Return the characters that stand for bytes in the pieces of byte-level BPE (GPT-2's), character -> byte."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode  # noqa: PLC0415 - slow to import

    return {character: byte for byte, character in bytes_to_unicode().items()}


def control_pattern(control_ids: Mapping[str, int]) -> re.Pattern[str]:
    """Compile a pattern of one group that matches the text of any control token, of several the longest."""
    texts = sorted(filter(None, control_ids), key=len, reverse=True)
    matches_nothing = "(?!)"
    alternatives = "|".join(map(re.escape, texts)) or matches_nothing
    return re.compile(f"({alternatives})")


def load_encoder(settings: Settings) -> Encoder:
    """Load the encoder for `--tokenizer-mode`, in `auto` the one that the model was trained with; raises StartError."""
    mode = settings.tokenizer_mode
    name = settings.tokenizer_path
    model_file = find_file(name, "tokenizer.model", settings.revision)
    if mode == "slow" and model_file is None:
        raise StartError(
            f"--tokenizer-mode slow needs a SentencePiece tokenizer.model, and {name} has none."
        )
    config = read_json_object(find_file(name, "tokenizer_config.json", settings.revision))
    if model_file is not None:
        fits = mode == "auto" and _fits_sentencepiece(settings, config, model_file)
        if mode == "slow" or fits:
            return SentencePieceEncoder(model_file, _special_tokens(config))
    return TokenizerEncoder(load_tokenizer(settings))


def _fits_sentencepiece(
    settings: Settings, tokenizer_config: Mapping[str, Any], model_file: Path
) -> bool:
    """Whether the model was trained on the ids that SentencePiece gives with `model_file`, as LLaMA was.

    Models of the type `llama` count whatever their `tokenizer_class`, which has had many spellings; of others the class
    has to be one of LLaMA's, or absent.
    """
    tokenizer_class = str(tokenizer_config.get("tokenizer_class") or "LlamaTokenizer")
    if "llama" not in tokenizer_class.lower():
        model_type = read_config(settings).get("model_type")
        if model_type != "llama":
            return False
    # LLaMA-3's tokenizer.model is tiktoken's. SentencePiece's begins with the tag of protobuf's field 1, a piece: 0x0A.
    if model_file.read_bytes().startswith(b"\n"):
        return True
    # Where transformers has no file of its own, a StartError is to say what is wrong with this one.
    return find_file(settings.tokenizer_path, "tokenizer.json", settings.revision) is None


def _special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, int]:
    """Read the control tokens of tokenizer_config.json, text -> id; raises StartError for a list of another shape."""
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
    """Parse a SentencePiece model; raises StartError for a file of another kind, and for one that was cut."""
    try:
        proto = sentencepiece_model_pb2.ModelProto.FromString(file.read_bytes())
    except (OSError, DecodeError) as failure:
        raise StartError(f"{file} is not a SentencePiece model.") from failure
    # `trainer_spec` comes after the pieces, so a file that was cut lacks it.
    if not (proto.pieces and proto.HasField("trainer_spec")):
        raise StartError(f"{file} is not a whole SentencePiece model.")
    return proto


def load_tokenizer(settings: Settings) -> Any:
    """Load the tokenizer of transformers for the settings' model; raises StartError."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import

    name = settings.tokenizer_path
    with raising_start_error(f"No tokenizer can be loaded from {name}"):
        return AutoTokenizer.from_pretrained(
            name, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )


def _check_range(ids: Sequence[int], vocabulary_size: int, added: Collection[int] = ()) -> None:
    """Raise ValueError for an id that is neither below `vocabulary_size` nor one of the `added` tokens."""
    for token_id in set(ids):
        is_piece = 0 <= token_id < vocabulary_size
        if not is_piece and token_id not in added:
            raise ValueError(f"token id {token_id} is outside the vocabulary")
