"""Questions that need the turn before: 那它的首都呢？ 再讲一个。 用英语怎么说？"""

from collections.abc import Callable

from facts import places, provinces, words
from topics import (
    Turn,
    a_country,
    named,
    province_name,
    told_capital_en,
    told_capital_zh,
    told_chinese,
    told_continent_en,
    told_continent_zh,
    told_english,
    told_letter,
    told_place,
    told_province,
    told_story,
    told_sum,
)
from wordings import Pen

FollowUp = Callable[[Pen, Turn], Turn]


def other_zh(pen: Pen, turn: Turn) -> Turn:
    """The same question about something else: 那法国呢？"""
    if turn.kind in ("capital_zh", "continent_zh"):
        country = a_country(pen)
        told = told_capital_zh if turn.kind == "capital_zh" else told_continent_zh
        return told(country, "follow_up", pen.ask("f_same_zh", other=country.zh))
    if turn.kind in ("province", "letter"):
        province = pen.rng.choice(provinces())
        told_about = told_letter if turn.kind == "letter" else told_province
        question = pen.ask("f_same_zh", other=province_name(pen, province))
        return told_about(province, "follow_up", question)
    word = pen.rng.choice(words())
    if turn.kind == "word_en":
        return told_english(word, "follow_up", pen.ask("f_same_zh", other=word.zh))
    return told_chinese(word, "follow_up", pen.ask("f_same_zh", other=f" {word.en} "))


def other_en(pen: Pen, turn: Turn) -> Turn:
    country = a_country(pen)
    question = pen.ask("f_same_en", other=named(pen, country.en))
    told = told_capital_en if turn.kind == "capital_en" else told_continent_en
    return told(country, "follow_up", question)


def its_capital_zh(pen: Pen, turn: Turn) -> Turn:
    return told_capital_zh(turn.subject, "follow_up", pen.ask("f_capital_zh"))


def its_capital_en(pen: Pen, turn: Turn) -> Turn:
    return told_capital_en(turn.subject, "follow_up", pen.ask("f_capital_en"))


def its_continent_zh(pen: Pen, turn: Turn) -> Turn:
    return told_continent_zh(turn.subject, "follow_up", pen.ask("f_continent_zh"))


def its_continent_en(pen: Pen, turn: Turn) -> Turn:
    return told_continent_en(turn.subject, "follow_up", pen.ask("f_continent_en"))


def in_english(pen: Pen, turn: Turn) -> Turn:
    told = told_capital_en if turn.kind == "capital_zh" else told_continent_en
    return told(turn.subject, "follow_up", pen.ask("f_in_english"))


def in_chinese(pen: Pen, turn: Turn) -> Turn:
    told = told_capital_zh if turn.kind == "capital_en" else told_continent_zh
    return told(turn.subject, "follow_up", pen.ask("f_in_chinese"))


def its_letter(pen: Pen, turn: Turn) -> Turn:
    return told_letter(turn.subject, "follow_up", pen.ask("f_short"))


def more_arithmetic(pen: Pen, turn: Turn) -> Turn:
    value = int(turn.subject)
    if value < 100 and (value == 0 or pen.rng.random() < 0.5):
        right = pen.rng.randint(1, min(20, 100 - value))
        return told_sum(value, "+", right, "follow_up", pen.ask("f_add", n=str(right)))
    right = pen.rng.randint(1, min(20, value))
    return told_sum(value, "-", right, "follow_up", pen.ask("f_subtract", n=str(right)))


def next_story(pen: Pen, turn: Turn) -> Turn:
    """The place's next story, or one of Hangzhou where it has no other."""
    place, told = turn.subject
    if len(place.stories) == 1:
        place = places()[0]
    known = place.stories.index(told) if told in place.stories else -1
    following = place.stories[(known + 1) % len(place.stories)]
    return told_story(place, following, "follow_up", pen.ask("f_next_story"))


def story_there(pen: Pen, turn: Turn) -> Turn:
    place = turn.subject
    return told_story(place, place.stories[0], "follow_up", pen.ask("f_story"))


def sights_there(pen: Pen, turn: Turn) -> Turn:
    place = turn.subject if turn.kind == "place" else turn.subject[0]
    return told_place(place, "follow_up", pen.ask("f_sights"), place.sights)


def food_there(pen: Pen, turn: Turn) -> Turn:
    place = turn.subject if turn.kind == "place" else turn.subject[0]
    place = place if place.food else places()[0]
    return told_place(place, "follow_up", pen.ask("f_food"), place.food)


FOLLOW_UPS: dict[str, tuple[FollowUp, ...]] = {
    "capital_zh": (other_zh, other_zh, its_continent_zh, in_english),
    "capital_en": (other_en, its_continent_en, in_chinese),
    "continent_zh": (other_zh, its_capital_zh, its_capital_zh, in_english),
    "continent_en": (other_en, its_capital_en, in_chinese),
    "country_zh": (its_continent_zh,),
    "country_en": (its_continent_en,),
    "province": (other_zh, its_letter),
    "letter": (other_zh,),
    "word_en": (other_zh,),
    "word_zh": (other_zh,),
    "sum": (more_arithmetic,),
    "story": (next_story, next_story, sights_there, food_there),
    "place": (story_there, sights_there, food_there),
}
