"""Follow-up questions, which are understood by the turn before them: 那它的首都呢？ 再讲一个。 用英语怎么说？"""

from collections.abc import Callable

from facts import places, provinces, words
from topics import (
    Turn,
    capital_turn_en,
    capital_turn_zh,
    chinese_word_turn,
    continent_turn_en,
    continent_turn_zh,
    country_name,
    english_word_turn,
    place_turn,
    province_name,
    province_turn,
    random_country,
    short_name_turn,
    story_turn,
    sum_turn,
)
from wordings import Phraser

FollowUp = Callable[[Phraser, Turn], Turn]
"""Writes a turn that follows another one."""


def same_question_zh(phraser: Phraser, turn: Turn) -> Turn:
    """Ask the same about something else: 那法国呢？"""
    if turn.kind in ("capital_zh", "continent_zh"):
        country = random_country(phraser)
        to_turn = capital_turn_zh if turn.kind == "capital_zh" else continent_turn_zh
        return to_turn(country, "follow_up", phraser.phrase("f_same_zh", other=country.zh))
    if turn.kind in ("province", "short_name"):
        province = phraser.rng.choice(provinces())
        to_province_turn = short_name_turn if turn.kind == "short_name" else province_turn
        question = phraser.phrase("f_same_zh", other=province_name(phraser, province))
        return to_province_turn(province, "follow_up", question)
    word = phraser.rng.choice(words())
    if turn.kind == "word_en":
        return english_word_turn(word, "follow_up", phraser.phrase("f_same_zh", other=word.zh))
    return chinese_word_turn(word, "follow_up", phraser.phrase("f_same_zh", other=f" {word.en} "))


def same_question_en(phraser: Phraser, turn: Turn) -> Turn:
    country = random_country(phraser)
    question = phraser.phrase("f_same_en", other=country_name(phraser, country.en))
    to_turn = capital_turn_en if turn.kind == "capital_en" else continent_turn_en
    return to_turn(country, "follow_up", question)


def its_capital_zh(phraser: Phraser, turn: Turn) -> Turn:
    return capital_turn_zh(turn.subject, "follow_up", phraser.phrase("f_capital_zh"))


def its_capital_en(phraser: Phraser, turn: Turn) -> Turn:
    return capital_turn_en(turn.subject, "follow_up", phraser.phrase("f_capital_en"))


def its_continent_zh(phraser: Phraser, turn: Turn) -> Turn:
    return continent_turn_zh(turn.subject, "follow_up", phraser.phrase("f_continent_zh"))


def its_continent_en(phraser: Phraser, turn: Turn) -> Turn:
    return continent_turn_en(turn.subject, "follow_up", phraser.phrase("f_continent_en"))


def answer_in_english(phraser: Phraser, turn: Turn) -> Turn:
    to_turn = capital_turn_en if turn.kind == "capital_zh" else continent_turn_en
    return to_turn(turn.subject, "follow_up", phraser.phrase("f_in_english"))


def answer_in_chinese(phraser: Phraser, turn: Turn) -> Turn:
    to_turn = capital_turn_zh if turn.kind == "capital_en" else continent_turn_zh
    return to_turn(turn.subject, "follow_up", phraser.phrase("f_in_chinese"))


def its_short_name(phraser: Phraser, turn: Turn) -> Turn:
    return short_name_turn(turn.subject, "follow_up", phraser.phrase("f_short"))


def more_arithmetic(phraser: Phraser, turn: Turn) -> Turn:
    value = int(turn.subject)
    if value < 100 and (value == 0 or phraser.rng.random() < 0.5):
        right = phraser.rng.randint(1, min(20, 100 - value))
        return sum_turn(value, "+", right, "follow_up", phraser.phrase("f_add", n=str(right)))
    right = phraser.rng.randint(1, min(20, value))
    return sum_turn(value, "-", right, "follow_up", phraser.phrase("f_subtract", n=str(right)))


def next_story(phraser: Phraser, turn: Turn) -> Turn:
    """Ask for another story: the next one of the place, or one of Hangzhou if the place has no other."""
    place, last_story = turn.subject
    if len(place.stories) == 1:
        place = places()[0]
    next_at = place.stories.index(last_story) + 1 if last_story in place.stories else 0
    following = place.stories[next_at % len(place.stories)]
    return story_turn(place, following, "follow_up", phraser.phrase("f_next_story"))


def story_of_place(phraser: Phraser, turn: Turn) -> Turn:
    place = turn.subject
    return story_turn(place, place.stories[0], "follow_up", phraser.phrase("f_story"))


def sights_of_place(phraser: Phraser, turn: Turn) -> Turn:
    place = turn.subject if turn.kind == "place" else turn.subject[0]
    return place_turn(place, "follow_up", phraser.phrase("f_sights"), place.sights)


def food_of_place(phraser: Phraser, turn: Turn) -> Turn:
    place = turn.subject if turn.kind == "place" else turn.subject[0]
    place = place if place.food else places()[0]
    return place_turn(place, "follow_up", phraser.phrase("f_food"), place.food)


FOLLOW_UPS: dict[str, tuple[FollowUp, ...]] = {
    "capital_zh": (same_question_zh, same_question_zh, its_continent_zh, answer_in_english),
    "capital_en": (same_question_en, its_continent_en, answer_in_chinese),
    "continent_zh": (same_question_zh, its_capital_zh, its_capital_zh, answer_in_english),
    "continent_en": (same_question_en, its_capital_en, answer_in_chinese),
    "country_zh": (its_continent_zh,),
    "country_en": (its_continent_en,),
    "province": (same_question_zh, its_short_name),
    "short_name": (same_question_zh,),
    "word_en": (same_question_zh,),
    "word_zh": (same_question_zh,),
    "sum": (more_arithmetic,),
    "story": (next_story, next_story, sights_of_place, food_of_place),
    "place": (story_of_place, sights_of_place, food_of_place),
}
"""Each kind of turn -> the follow-ups to it, of which one that is there twice is chosen twice as often."""
