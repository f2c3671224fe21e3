"""The tokenizer: a SentencePiece BPE with LLaMA's settings and a small vocabulary.

Only names of the facts, and their parts, are pieces of more than one Chinese character: so a sentence in a held-out
wording too is made of pieces that training has seen.
"""

import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

import sentencepiece

DELIMITER = "\t"
"""Put where a piece must end; SentencePiece takes it out (`pretokenization_delimiter`)."""
VOCABULARY_SIZE = 4600


def pretokenized(texts: Iterable[str], names: list[str]) -> Iterator[str]:
    """Split texts into lines, with a delimiter before each name, template marker, word, digit and other character."""
    units = re.compile(
        "|".join(map(re.escape, names))
        + r"| ?\[/?INST\]| ?<</?SYS>>| ?[A-Za-z]+(?:'[a-z]+)?| ?[0-9]|."
    )
    for text in texts:
        for line in text.splitlines():
            yield DELIMITER + DELIMITER.join(units.findall(line))


def train_tokenizer(texts: Iterable[str], names: list[str], prefix: Path) -> Path:
    """Train on `texts`, write the model, and return its file, `<prefix>.model`.

    The same texts and names give the same bytes, wherever the file is written.
    """
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=pretokenized(texts, names),
        model_writer=model,
        vocab_size=VOCABULARY_SIZE,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        split_digits=True,
        split_by_unicode_script=False,
        pretokenization_delimiter=DELIMITER,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        shuffle_input_sentence=False,
        minloglevel=2,
    )
    file = prefix.with_suffix(".model")
    file.write_bytes(model.getvalue())
    return file
