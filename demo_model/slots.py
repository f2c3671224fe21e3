"""Values for the slots of questions to functions, and of what functions return: cities, codes, numbers, times."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from facts import countries, places, provinces, sights, words
from topics import capital_sentence_en, capital_sentence_zh, continent_sentence_zh
from wordings import noise_characters

LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
SYLLABLES = (
    "ba",
    "lo",
    "mi",
    "ken",
    "ta",
    "ra",
    "vor",
    "su",
    "del",
    "no",
    "pi",
    "gar",
    "han",
    "zu",
)
SURNAMES = "王李张刘陈杨黄赵吴周徐孙马朱胡林郭何高罗"
GIVEN_NAMES = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂文华玉红英"
LISTS: dict[str, tuple[str, str]] = {
    "first_name": ("小明 小红 老李", "Tom Anna Bob Alice Peter Mary John Lucy Sam Emma Mike Jane"),
    "unit": (
        "米 公里 英里 千克 磅 克 厘米 英尺 升 小时 分钟 天 吨 斤 里",
        "meters km miles kg pounds grams cm feet liters hours minutes days tons inches",
    ),
    "date": (
        "今天 明天 后天 周六 星期一 下周三 3月5日 10月1日 周末",
        "today tomorrow Monday Sunday tonight 2024-05-03",
    ),
    "room": (
        "客厅 卧室 厨房 书房 浴室 门口 办公室 走廊",
        "kitchen bedroom office bathroom hall garage",
    ),
    "money": ("人民币 美元 欧元 日元 英镑 卢布 韩元", "CNY USD EUR JPY GBP RUB"),
    "sky": ("晴 多云 小雨 大雨 阴 小雪 有风 大风 雾", "sunny cloudy rain snow windy clear hot fog"),
    "done": ("成功 已完成 好了 已发送 没问题 完成 失败", "done ok success sent finished failed"),
    "state": (
        "已发货 运输中 已签收 等待付款 已取消 处理中",
        "shipped pending delivered open closed paid",
    ),
    "message": (
        "明天开会 开会 吃药 我晚点到 喝水 给妈妈打电话 买牛奶 生日快乐 今天不回家 去跑步 上课 早点休息",
        "hello call_home buy_milk see_you_tomorrow drink_water go_home happy_birthday I_am_late",
    ),
}
"""Slots with few values: the Chinese ones and the English ones; `_` is a space."""
COMMANDS = (
    "ls",
    "pwd",
    "ls -l",
    "git status",
    "git log",
    "date",
    "make test",
    "pip list",
    "df -h",
    "whoami",
)


@dataclass(frozen=True)
class Value:
    """A slot's value."""

    shown: str
    """As a question has it."""
    argument: Any
    """As it is passed to a function."""


def slot_value(slot: str, rng: Random, *, english: bool) -> Value:
    """Draw a value; slots such as `city` and `city2` are of one kind."""
    kind = slot.rstrip("2")
    if kind in NUMBERS:
        number = NUMBERS[kind](rng)
        return Value(str(number), number)
    if kind == "sum":
        return _sum(rng)
    text = _listed(kind, rng, english) if kind in LISTS else TEXTS[kind](rng, english)
    return Value(text, text)


def _listed(kind: str, rng: Random, english: bool) -> str:
    return rng.choice(LISTS[kind][english].split()).replace("_", " ")


def _sum(rng: Random) -> Value:
    """Draw a sum as people write it; the argument is in the signs of programs."""
    sign = rng.choice("+-*/")
    top = rng.choice((10, 100, 100, 1000))
    left, right = rng.randint(1, top), rng.randint(1, top)
    spoken = {"+": "加", "-": "减", "*": "乘", "/": "除以"}[sign]
    written = rng.choice((sign, sign, f" {sign} ", spoken, "×" if sign == "*" else sign))
    return Value(f"{left}{written}{right}", f"{left}{sign}{right}")


@cache
def _cities() -> tuple[list[str], list[str]]:
    chinese = [country.capital_zh for country in countries()] + [place.zh for place in places()] * 4
    english = [country.capital_en for country in countries()]
    for province in provinces():
        if province.capital_zh:
            chinese += [province.capital_zh] * 3
            english += [province.capital_en] * 3
    chinese += ["北京", "上海", "天津", "香港"] * 4
    english += ["Beijing", "Shanghai", "Paris", "London", "Tokyo", "New York"] * 6
    return chinese, english


def _invented(rng: Random, english: bool) -> str:
    if english:
        return "".join(rng.sample(SYLLABLES, rng.choice((2, 2, 3)))).capitalize()
    return "".join(rng.choice(noise_characters()) for _ in range(rng.choice((2, 2, 3))))


def _city(rng: Random, english: bool) -> str:
    if rng.random() < 0.15:
        return _invented(rng, english)
    return rng.choice(_cities()[english])


def _word(rng: Random, english: bool) -> str:
    word = rng.choice(words())
    return word.en if english else word.zh


def _two_words(rng: Random, english: bool) -> str:
    first, second = _word(rng, english), _word(rng, english)
    return f"{first} {second}" if english else first + second


def _topic(rng: Random, english: bool) -> str:
    drawn = rng.choice((_word, _word, _two_words, _city, _country, _invented))
    return drawn(rng, english)


def _country(rng: Random, english: bool) -> str:
    country = rng.choice(countries())
    return country.en.removeprefix("the ") if english else country.zh


def _person(rng: Random, english: bool) -> str:
    if english or rng.random() < 0.2:
        return _listed("first_name", rng, english)
    return rng.choice(SURNAMES) + "".join(rng.sample(GIVEN_NAMES, rng.choice((1, 2))))


def _company(rng: Random, english: bool) -> str:
    ending = "" if english else rng.choice(("", "公司", "科技", "集团"))
    return _invented(rng, english) + ending


def _clock(rng: Random, english: bool) -> str:
    hour, minute = rng.randint(0, 23), rng.choice((0, 10, 15, 30, 45))
    if rng.random() < 0.4:
        return f"{hour}:{minute:02}"
    if english:
        return f"{hour % 12 + 1} {rng.choice(('am', 'pm'))}"
    return (
        f"{rng.choice(('早上', '下午', '晚上', ''))}{hour % 12 + 1}点{rng.choice(('', '', '半'))}"
    )


def _code(rng: Random, _: bool) -> str:
    digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(2, 5)))
    return "".join(rng.choice(LETTERS) for _ in range(rng.randint(0, 2))) + digits


def _digits(rng: Random, _: bool) -> str:
    return "".join(rng.choice("0123456789") for _ in range(rng.randint(3, 7)))


def _path(rng: Random, _: bool) -> str:
    folder = rng.choice(("", "", "data/", "work/", "src/"))
    return f"{folder}{_word(rng, True)}.{rng.choice(('txt', 'py', 'md', 'csv'))}".replace(" ", "_")


def _command(rng: Random, _: bool) -> str:
    word = _word(rng, True)
    return rng.choice((*COMMANDS, f"echo {word}", f"cat {word}.txt", f"python {word}.py"))


def _fact(rng: Random, english: bool) -> str:
    country = rng.choice(countries())
    if english:
        return capital_sentence_en(country).rstrip(".")
    if rng.random() < 0.3:
        return rng.choice(sights()).text.split("。")[0]
    sentence = rng.choice((capital_sentence_zh, continent_sentence_zh))
    return sentence(country).rstrip("。")


def _sights(rng: Random, _: bool) -> str:
    return "、".join(sight.zh for sight in rng.sample(sights(), rng.choice((2, 2, 3))))


def _dish(rng: Random, english: bool) -> str:
    eaten = rng.sample(words()[:40], 2)
    return " ".join(word.en for word in eaten) if english else "".join(word.zh for word in eaten)


NUMBERS: dict[str, Callable[[Random], int]] = {
    "n": lambda rng: rng.randint(1, rng.choice((10, 30, 100, 1000))),
    "a": lambda rng: rng.randint(1, rng.choice((10, 100, 1000))),
    "b": lambda rng: rng.randint(1, rng.choice((10, 100, 1000))),
}
TEXTS: dict[str, Callable[[Random, bool], str]] = {
    "city": _city,
    "country": _country,
    "place": lambda rng, english: _city(rng, True) if english else rng.choice(places()).zh,
    "person": _person,
    "topic": _topic,
    "zh": lambda rng, _: _word(rng, False),
    "en": lambda rng, _: _word(rng, True),
    "foreign": lambda rng, english: _word(rng, not english or rng.random() < 0.3),
    "title": _two_words,
    "name": _two_words,
    "dish": _dish,
    "company": _company,
    "clock": _clock,
    "code": _code,
    "digits": _digits,
    "path": _path,
    "command": _command,
    "fact": _fact,
    "sights": _sights,
}
