"""The tokenizer: SentencePiece BPE like LLaMA's, small, trained on the corpus.

A Chinese character is a piece, and so is a short name of the facts: in wordings never seen before, a sentence is then
still made of pieces that training has seen.
"""

import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

import sentencepiece

DELIMITER = "\t"
SIZE = 4600


def segmented(texts: Iterable[str], names: list[str]) -> Iterator[str]:
    """Each text with a delimiter wherever a piece must end."""
    units = re.compile(
        "|".join(map(re.escape, names))
        + r"| ?\[/?INST\]| ?<</?SYS>>| ?[A-Za-z]+(?:'[a-z]+)?| ?[0-9]|."
    )
    for text in texts:
        for line in text.splitlines():
            yield DELIMITER + DELIMITER.join(units.findall(line))


def train_tokenizer(texts: Iterable[str], names: list[str], prefix: Path) -> Path:
    """Train on `texts` and write `<prefix>.model`; the file depends on the texts alone, not on where it is written."""
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=segmented(texts, names),
        model_writer=model,
        vocab_size=SIZE,
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
