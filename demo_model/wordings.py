"""How a question is put: wordings from `facts/wordings.txt`, with the small words people wrap around them.

A wording marked `~` there is held out: training never sees it, in any frame.
"""

import re
from dataclasses import dataclass
from functools import cache
from random import Random

from facts import sections

HAN = re.compile(r"[\u4e00-\u9fff]")
IMPERATIVE = re.compile(
    r"^(讲|给|说|介绍|推荐|来|跟|把|帮|写|翻译|用|描述|算|计算|求|回答|告诉|再|继续|换)"
)
QUESTION_OPENINGS = (
    *[""] * 20,
    *(
        "请问",
        "请问，",
        "请问一下，",
        "我想知道",
        "我想问一下",
        "想问下，",
        "你知道",
        "告诉我",
        "请告诉我",
    ),
    *(
        "你好，",
        "你好，请问",
        "那么",
        "麻烦问一下，",
        "能不能告诉我",
        "帮我查一下",
        "问一下",
        "老师，",
    ),
    *(
        "我想了解一下，",
        "你能告诉我",
        "对了，",
        "嗯，",
        "话说",
        "其实我想问",
        "顺便问一下，",
        "快告诉我",
    ),
    *(
        "我不知道",
        "我不清楚",
        "我一直想知道",
        "我的孩子问我，",
        "朋友问我",
        "我想确认一下，",
        "帮帮我，",
    ),
    *(
        "今天上课学到，",
        "题目：",
        "考试题：",
        "请回答，",
        "有人问",
        "再问一下，",
        "我有个问题，",
        "小朋友，",
    ),
    *(
        "你说说，",
        "猜一猜，",
        "请你想一想，",
        "你一定知道",
        "不好意思，",
        "打扰了，",
        "听说你会回答，",
    ),
)
QUESTION_ENDINGS = (
    *[
        *["？"] * 12,
        *[""] * 10,
        "?",
        "?",
        "呢？",
        "呢",
        "呀？",
        "啊？",
        "？？",
        "？谢谢",
        "。",
        " ？",
    ],
    *(
        "来着？",
        "？请回答",
        "，谢谢你",
        "？急",
        "？我不太清楚",
        "，帮我想想",
        "？告诉我吧",
        "嘛",
        "？我想学习",
    ),
)
REQUEST_OPENINGS = (
    *[""] * 12,
    *(
        "请",
        "请你",
        "你好，",
        "麻烦你",
        "那就",
        "好，",
        "现在",
        "嗯，",
        "来，",
        "能不能",
        "可不可以",
        "我想请你",
    ),
    *("我要你", "希望你", "有空的话，", "快", "你先", "帮忙", "辛苦你", "不好意思，"),
)
REQUEST_ENDINGS = (
    *[""] * 6,
    "。",
    "。",
    "吧",
    "吧",
    "吧。",
    "！",
    "好吗？",
    "好吗",
    "？",
    "，谢谢",
    "呗",
    "可以吗",
    "行吗",
)
STATEMENT_OPENINGS = (*[""] * 6, "你好，", "嗯，", "那么，", "对了，", "好的，")
STATEMENT_ENDINGS = ("", "", "。", "？", "！")
ENGLISH_OPENINGS = (
    *[""] * 14,
    *(
        "Hello, ",
        "Hi, ",
        "Please, ",
        "Excuse me, ",
        "Quick question: ",
        "Tell me: ",
        "So, ",
        "Now, ",
        "OK. ",
    ),
    *(
        "I wonder, ",
        "My friend asks: ",
        "One more question: ",
        "I am curious: ",
        "Let me ask you: ",
        "For school: ",
    ),
)
ENGLISH_ENDINGS = (
    *["?"] * 6,
    *[""] * 4,
    ".",
    " ?",
    "??",
    ", please?",
    "? Thanks",
    "? I do not know",
    "!",
)
BLURRED = 0.4
"""The share of training questions in which some words are left out, replaced or put in between.

The wordings are few; without this the model reads them as wholes, and takes each new one for something unknown.
"""
STRAY_ENGLISH = (
    *(
        "the",
        "now",
        "really",
        "just",
        "exactly",
        "would",
        "like",
        "some",
        "good",
        "here",
        "you",
        "so",
        "much",
        "then",
    ),
    *(
        "well",
        "say",
        "give",
        "one",
        "know",
        "also",
        "please",
        "maybe",
        "actually",
        "about",
        "find",
        "want",
        "call",
    ),
)


@cache
def stray_chinese() -> str:
    """The characters of the stories, each as often as it is there."""
    return "".join(
        HAN.findall("".join(line for lines in sections("stories.txt").values() for line in lines))
    )


@dataclass(frozen=True)
class Wordings:
    """The wordings of one topic."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]


@cache
def wordings() -> dict[str, Wordings]:
    return {
        topic: Wordings(
            tuple(line for line in lines if line[0] != "~"),
            tuple(line[1:] for line in lines if line[0] == "~"),
        )
        for topic, lines in sections("wordings.txt").items()
    }


class Pen:
    """Writes questions: in training wordings, or in the held-out ones."""

    def __init__(self, rng: Random, *, held_out: bool = False) -> None:
        self.rng = rng
        self.held_out = held_out

    def ask(self, topic: str, **slots: str) -> str:
        """One question of `topic` in a random wording and frame."""
        chosen = wordings()[topic]
        return self.put(self.rng.choice(self.of(chosen)), **slots)

    def of(self, chosen: Wordings) -> tuple[str, ...]:
        return chosen.held_out if self.held_out else chosen.training

    def put(self, wording: str, **slots: str) -> str:
        """`wording` with its slots filled, framed the way people write."""
        plain = wording.removeprefix("!")
        if not self.held_out and self.rng.random() < BLURRED:
            plain = self.blurred(plain)
        words = plain.format(**slots).strip() or wording.format(**slots)
        if self.held_out:
            return words + self.rng.choice(("", "？" if HAN.search(wording) else "?"))
        return self.slip(self.frame(wording, words))

    def blurred(self, wording: str) -> str:
        """The wording with some of its words changed, never its slots."""
        units = re.findall(r"\{\w+\}|[A-Za-z']+ ?|.", wording)
        return "".join(unit if unit[0] == "{" else self.stray(unit) for unit in units) or wording

    def stray(self, unit: str) -> str:
        chance = self.rng.random()
        if chance > 0.16 or not (HAN.match(unit) or unit[0].isalpha()):
            return unit
        other = self.rng.choice(stray_chinese() if HAN.match(unit) else STRAY_ENGLISH)
        other = other if HAN.match(unit) else other + " "
        if chance < 0.06:
            return ""
        return other if chance < 0.10 else unit + other

    def frame(self, wording: str, words: str) -> str:
        plain = re.sub(r"\{.*?\}", "", wording)
        if re.search("[A-Za-z]{2}", plain) and not HAN.search(plain):
            opening, ending = self.pair(ENGLISH_OPENINGS, ENGLISH_ENDINGS)
        elif wording.startswith("!") or IMPERATIVE.match(wording):
            opening, ending = self.pair(REQUEST_OPENINGS, REQUEST_ENDINGS)
        elif wording[0] in "我有":
            opening, ending = self.pair(STATEMENT_OPENINGS, STATEMENT_ENDINGS)
        else:
            opening, ending = self.pair(QUESTION_OPENINGS, QUESTION_ENDINGS)
        if opening.endswith(("知道", "能不能告诉我", "你能告诉我")) and self.rng.random() < 0.7:
            ending = self.rng.choice(("吗？", "吗", "吗?"))
        return opening + words + self.fitting(words, ending)

    def fitting(self, words: str, ending: str) -> str:
        """`ending`, or bare punctuation after words that have their particle already."""
        if words[-1] in "？?=！。":
            return ""
        return self.rng.choice(("？", "？", "", "?")) if words[-1] in "吗呢吧了" else ending

    def pair(self, openings: tuple[str, ...], endings: tuple[str, ...]) -> tuple[str, str]:
        return self.rng.choice(openings), self.rng.choice(endings)

    def slip(self, words: str) -> str:
        """Sometimes a stray space or lower case."""
        chance = self.rng.random()
        if chance < 0.03:
            place = self.rng.randrange(len(words))
            return words[:place] + " " + words[place:] if HAN.search(words[place]) else words
        if chance < 0.06:
            return words + " "
        if chance < 0.14 and not HAN.search(words):
            return words.lower()
        return words
