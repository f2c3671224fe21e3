"""Texts that tokenizers stumble over, made by a seed."""

import random

PIECES = (
    "告诉我", "中国的", "首都", "在哪里", "杭州", "西湖", "，", "。", "！", "？", "、", "“", "”", "（", "）", "《",
    "龘", "靐", "㵘", "𠮷", "𪚥", "ﷺ", "　", "😀", "👨‍👩‍👧", "🇨🇳", "é", "é", "Ω", "ß", "Привет", "こんにちは", "안녕",
    "Hello", "world", "AlpacaModel", "x1", "3.14", "2023", "{}", "[INST]", "[/INST]", "<<SYS>>", "</s>", "<s>",
    "<unk>",
    "》", "——", "……", "<pad>", "<0x0A>", "▁", "\u200b", "\ufeff", "\t", "\r\n", "\x00", "\x7f", "def f(x):", "~", "#",
    "https://例子.中国/?q=1",
)  # fmt: skip
SPACES = ("", "", "", "", " ", " ", "  ", "   ", "\n", "\n\n", " \n ")
COMMON_HANZI = range(0x4E00, 0x9FA5)
RARE_HANZI = range(0x20000, 0x2A6DF)


def varied_strings(count: int) -> list[str]:
    """Distinct strings: empty and blank ones, single characters, and mixtures with spaces anywhere."""
    chooser = random.Random(2023)
    strings = dict.fromkeys(["", " ", "  ", "\n", *PIECES, *(f" {piece}" for piece in PIECES)])
    while len(strings) < count:
        length = chooser.randint(1, 12)
        parts = []
        for _ in range(length):
            kind = chooser.random()
            if kind < 0.55:
                parts.append(chooser.choice(PIECES))
            elif kind < 0.9:
                parts.append(
                    "".join(chr(chooser.choice(COMMON_HANZI)) for _ in range(chooser.randint(1, 8)))
                )
            else:
                parts.append(chr(chooser.choice(RARE_HANZI)))
            parts.append(chooser.choice(SPACES))
        strings["".join(parts)] = None
    return list(strings)
