"""How questions are worded: the wordings of `facts/wordings.txt`, in the frames that people put around a question.

A wording marked `~` there is held out: training never has it, in any frame.
"""

import re
from dataclasses import dataclass
from functools import cache
from itertools import chain
from random import Random

from facts import sections

HAN = re.compile(r"[\u4e00-\u9fff]")
"""Matches a Chinese character."""
IMPERATIVE = re.compile(
    r"^(讲|给|说|介绍|推荐|来|跟|把|帮|写|翻译|用|描述|算|计算|求|回答|告诉|再|继续|换)"
)
"""Matches the beginning of a wording that asks for something to be done, and is no question."""
# What stands before and after a question's words. A text that is there more than once is chosen as much more often.
QUESTION_OPENINGS = (
    *[""] * 20,
    "请问",
    "请问，",
    "请问一下，",
    "我想知道",
    "我想问一下",
    "想问下，",
    "你知道",
    "告诉我",
    "请告诉我",
    "你好，",
    "你好，请问",
    "那么",
    "麻烦问一下，",
    "能不能告诉我",
    "帮我查一下",
    "问一下",
    "老师，",
    "我想了解一下，",
    "你能告诉我",
    "对了，",
    "嗯，",
    "话说",
    "其实我想问",
    "顺便问一下，",
    "快告诉我",
    "我不知道",
    "我不清楚",
    "我一直想知道",
    "我的孩子问我，",
    "朋友问我",
    "我想确认一下，",
    "帮帮我，",
    "今天上课学到，",
    "题目：",
    "考试题：",
    "请回答，",
    "有人问",
    "再问一下，",
    "我有个问题，",
    "小朋友，",
    "你说说，",
    "猜一猜，",
    "请你想一想，",
    "你一定知道",
    "不好意思，",
    "打扰了，",
    "听说你会回答，",
)
QUESTION_ENDINGS = (
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
    "来着？",
    "？请回答",
    "，谢谢你",
    "？急",
    "？我不太清楚",
    "，帮我想想",
    "？告诉我吧",
    "嘛",
    "？我想学习",
)
REQUEST_OPENINGS = (
    *[""] * 12,
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
    "我要你",
    "希望你",
    "有空的话，",
    "快",
    "你先",
    "帮忙",
    "辛苦你",
    "不好意思，",
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
    "Hello, ",
    "Hi, ",
    "Please, ",
    "Excuse me, ",
    "Quick question: ",
    "Tell me: ",
    "So, ",
    "Now, ",
    "OK. ",
    "I wonder, ",
    "My friend asks: ",
    "One more question: ",
    "I am curious: ",
    "Let me ask you: ",
    "For school: ",
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
NOISE_SHARE = 0.4
"""The share of training questions with word noise: words that are left out, replaced, or put in between.

There are few wordings: without noise the model learns each as a whole, and takes any other question for an unknown one.
"""
WORD_NOISE = 0.16
"""Of the words and characters of such a question, the share that is changed."""
NOISE_WORDS = (
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
)


@cache
def noise_characters() -> str:
    """Return the Chinese characters of `facts/stories.txt`, each as often as it is there."""
    lines = chain.from_iterable(sections("stories.txt").values())
    return "".join(HAN.findall("".join(lines)))


@dataclass(frozen=True)
class Wordings:
    """The wordings of one topic, with slots such as `{country}`; those with a leading `!` are requests."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]


@cache
def wordings() -> dict[str, Wordings]:
    """Read `facts/wordings.txt`, topic -> wordings."""
    found: dict[str, Wordings] = {}
    for topic, lines in sections("wordings.txt").items():
        training = tuple(line for line in lines if line[0] != "~")
        held_out = tuple(line[1:] for line in lines if line[0] == "~")
        found[topic] = Wordings(training, held_out)
    return found


class Phraser:
    """Phrases questions at random: in training wordings with frames and noise, or in held-out wordings as they are."""

    def __init__(self, rng: Random, *, held_out: bool = False) -> None:
        self.rng = rng
        self.held_out = held_out

    def phrase(self, topic: str, **slots: str) -> str:
        """Return a question of `topic` in a random wording."""
        chosen = wordings()[topic]
        wording = self.rng.choice(chosen.held_out if self.held_out else chosen.training)
        return self.phrase_wording(wording, **slots)

    def phrase_wording(self, wording: str, **slots: str) -> str:
        """Return `wording` with its slots filled; for training also with word noise, a frame and typing errors."""
        template = wording.removeprefix("!")
        if self.held_out:
            question_mark = "？" if HAN.search(wording) else "?"
            words = template.format(**slots).strip() or wording.format(**slots)
            return words + self.rng.choice(("", question_mark))
        if self.rng.random() < NOISE_SHARE:
            template = self._with_word_noise(template)
        words = template.format(**slots).strip() or wording.format(**slots)
        return self._with_typing_error(self._framed(wording, words))

    def _with_word_noise(self, wording: str) -> str:
        """Change some English words and Chinese characters of a wording, never its slots."""
        units = re.findall(r"\{\w+\}|[A-Za-z']+ ?|.", wording)
        changed = [unit if unit[0] == "{" else self._changed(unit) for unit in units]
        return "".join(changed) or wording

    def _changed(self, unit: str) -> str:
        """Return a word or character, or at times nothing, another, or both."""
        chance = self.rng.random()
        is_chinese = HAN.match(unit) is not None
        if chance > WORD_NOISE or not (is_chinese or unit[0].isalpha()):
            return unit
        others = noise_characters() if is_chinese else NOISE_WORDS
        other = self.rng.choice(others) + ("" if is_chinese else " ")
        if chance < 0.06:
            return ""
        return other if chance < 0.10 else unit + other

    def _framed(self, wording: str, words: str) -> str:
        """Put an opening and an ending around `words` that fit `wording`: a question, request or statement."""
        plain = re.sub(r"\{.*?\}", "", wording)
        if re.search("[A-Za-z]{2}", plain) and not HAN.search(plain):
            openings, endings = ENGLISH_OPENINGS, ENGLISH_ENDINGS
        elif wording.startswith("!") or IMPERATIVE.match(wording):
            openings, endings = REQUEST_OPENINGS, REQUEST_ENDINGS
        elif wording[0] in "我有":
            openings, endings = STATEMENT_OPENINGS, STATEMENT_ENDINGS
        else:
            openings, endings = QUESTION_OPENINGS, QUESTION_ENDINGS
        opening = self.rng.choice(openings)
        ending = self.rng.choice(endings)
        # An indirect question such as 你知道…吗 wants a particle.
        if opening.endswith(("知道", "能不能告诉我", "你能告诉我")) and self.rng.random() < 0.7:
            ending = self.rng.choice(("吗？", "吗", "吗?"))
        return opening + words + self._fitting(words, ending)

    def _fitting(self, words: str, ending: str) -> str:
        """Return `ending`; after a final particle punctuation at most, and after punctuation nothing."""
        if words[-1] in "？?=！。":
            return ""
        if words[-1] in "吗呢吧了":
            return self.rng.choice(("？", "？", "", "?"))
        return ending

    def _with_typing_error(self, words: str) -> str:
        """At times put a space into Chinese text or behind any, or English into lower case."""
        chance = self.rng.random()
        if chance < 0.03:
            at = self.rng.randrange(len(words))
            return f"{words[:at]} {words[at:]}" if HAN.search(words[at]) else words
        if chance < 0.06:
            return f"{words} "
        if chance < 0.14 and not HAN.search(words):
            return words.lower()
        return words
