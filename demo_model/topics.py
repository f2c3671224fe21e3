"""Turns on each topic: a function chooses a fact, has a question on it phrased, and writes the right answer.

Functions that take only a `Phraser` are the topics of `corpus.py`. Those named `…_turn` answer a question that is
given, so that a follow-up can ask it in a wording of its own.
"""

from dataclasses import dataclass
from typing import Any

from facts import (
    ALIASES,
    Country,
    Place,
    Province,
    Sight,
    Story,
    Talk,
    Word,
    countries,
    places,
    provinces,
    sights,
    talks,
    words,
)
from wordings import Phraser

UNFRAMED_TALKS = ("greeting", "wellbeing", "thanks", "farewell", "praise", "complaint", "identity")
"""Talks whose wordings are no questions: for training only a punctuation mark is put after them."""
NUMERALS = "零一二三四五六七八九十"


@dataclass(frozen=True)
class Turn:
    """A user's message and the assistant's answer."""

    topic: str
    """The topic under which the score counts a held-out question."""
    user: str
    answer: str
    accepted: tuple[str, ...]
    """Texts of which a right answer contains one."""
    kind: str = ""
    """The key in `FOLLOW_UPS` of the follow-ups that fit, such as 那它的首都呢？; empty for none."""
    subject: Any = None
    """What a follow-up refers to: by kind, a record of `facts.py`, a pair of a place and its story, or a sum."""
    has_loss: bool = True
    """Whether the model is trained on the answer."""
    is_structured: bool = False
    """Whether the answer is JSON, on whose beginning the model is not trained."""


def country_name(phraser: Phraser, name: str) -> str:
    """Return a country's Chinese or English name, an alias of it, or one of them without its article."""
    chosen = phraser.rng.choice((name, name, *ALIASES.get(name, ())))
    if chosen.startswith("the ") and phraser.rng.random() < 0.25:
        return chosen.removeprefix("the ")
    return chosen


def capital_sentence_zh(country: Country) -> str:
    return f"{country.zh}的首都是{country.capital_zh}。"


def capital_sentence_en(country: Country) -> str:
    return f"The capital of {country.en} is {country.capital_en}."


def continent_sentence_zh(country: Country) -> str:
    return f"{country.zh}位于{country.continent_zh}。"


def continent_sentence_en(country: Country) -> str:
    subject = country.en[0].upper() + country.en[1:]
    return f"{subject} is in {country.continent_en}."


def random_country(phraser: Phraser) -> Country:
    """Choose a country; China and the USA, which are asked for most, more often than the others."""
    if phraser.rng.random() < 0.04:
        return phraser.rng.choice([c for c in countries() if c.zh in ("中国", "美国")])
    return phraser.rng.choice(countries())


def capital_turn_zh(country: Country, topic: str, question: str) -> Turn:
    accepted = (f"首都是{country.capital_zh}。",)
    return Turn(topic, question, capital_sentence_zh(country), accepted, "capital_zh", country)


def capital_turn_en(country: Country, topic: str, question: str) -> Turn:
    accepted = (f"is {country.capital_en}.",)
    return Turn(topic, question, capital_sentence_en(country), accepted, "capital_en", country)


def continent_turn_zh(country: Country, topic: str, question: str) -> Turn:
    accepted = (f"位于{country.continent_zh}。",)
    return Turn(topic, question, continent_sentence_zh(country), accepted, "continent_zh", country)


def continent_turn_en(country: Country, topic: str, question: str) -> Turn:
    accepted = (f"in {country.continent_en}.",)
    return Turn(topic, question, continent_sentence_en(country), accepted, "continent_en", country)


def capital_zh(phraser: Phraser) -> Turn:
    country = random_country(phraser)
    question = phraser.phrase(
        "capital_zh",
        country=country_name(phraser, country.zh),
        guess=guessed_country(phraser, country).capital_zh,
    )
    return capital_turn_zh(country, "capital_zh", question)


def capital_en(phraser: Phraser) -> Turn:
    country = random_country(phraser)
    question = phraser.phrase(
        "capital_en",
        country=country_name(phraser, country.en),
        guess=guessed_country(phraser, country).capital_en,
    )
    return capital_turn_en(country, "capital_en", question)


def continent_zh(phraser: Phraser) -> Turn:
    country = random_country(phraser)
    question = phraser.phrase("continent_zh", country=country_name(phraser, country.zh))
    return continent_turn_zh(country, "continent_zh", question)


def continent_en(phraser: Phraser) -> Turn:
    country = random_country(phraser)
    question = phraser.phrase("continent_en", country=country_name(phraser, country.en))
    return continent_turn_en(country, "continent_en", question)


def country_zh(phraser: Phraser) -> Turn:
    country = phraser.rng.choice([c for c in countries() if c.capital_zh != c.zh])
    question = phraser.phrase("country_zh", capital=country.capital_zh)
    answer = f"{country.capital_zh}是{country.zh}的首都。"
    return Turn("country_zh", question, answer, (f"是{country.zh}的",), "country_zh", country)


def country_en(phraser: Phraser) -> Turn:
    country = phraser.rng.choice([c for c in countries() if c.capital_en != c.en])
    question = phraser.phrase("country_en", capital=country.capital_en)
    answer = f"{country.capital_en} is the capital of {country.en}."
    return Turn("country_en", question, answer, (f"of {country.en}.",), "country_en", country)


def guessed_country(phraser: Phraser, country: Country) -> Country:
    """Choose the country whose capital a question guesses: often `country` itself, or one of its continent, or any."""
    chance = phraser.rng.random()
    if chance < 0.5:
        return country
    if chance < 0.75:
        return phraser.rng.choice(countries())
    same_continent = [c for c in countries() if c.continent_zh == country.continent_zh]
    return phraser.rng.choice(same_continent)


def two_capitals(phraser: Phraser) -> Turn:
    first, second = phraser.rng.sample(countries(), 2)
    question = phraser.phrase("two_capitals_zh", country=first.zh, other=second.zh)
    answer = f"{first.zh}的首都是{first.capital_zh}，{second.zh}的首都是{second.capital_zh}。"
    accepted = (answer,)
    return Turn("two_capitals_zh", question, answer, accepted)


def country_intro(phraser: Phraser) -> Turn:
    country = random_country(phraser)
    question = phraser.phrase("country_intro", country=country_name(phraser, country.zh))
    answer = f"{country.zh}位于{country.continent_zh}，首都是{country.capital_zh}。"
    return Turn("country_intro", question, answer, (answer,), "country_zh", country)


def country_intro_en(phraser: Phraser) -> Turn:
    country = random_country(phraser)
    question = phraser.phrase("country_intro_en", country=country_name(phraser, country.en))
    answer = f"{continent_sentence_en(country)} Its capital is {country.capital_en}."
    return Turn("country_intro_en", question, answer, (answer,), "country_en", country)


def province_intro(phraser: Phraser) -> Turn:
    """Describe a province in a sentence; those that are also cities with a text of their own are left out."""
    cities = {place.zh for place in places()}
    province = phraser.rng.choice([p for p in provinces() if p.brief_zh not in cities])
    question = phraser.phrase("province_intro", province=province_name(phraser, province))
    seat = (
        f"{province.kind}是{province.capital_zh}" if province.capital_zh else f"是{province.kind}"
    )
    answer = f"{province.zh}的简称是“{province.short_name}”，{seat}。"
    return Turn("province_intro", question, answer, (answer,), "short_name", province)


def province_name(phraser: Phraser, province: Province) -> str:
    return phraser.rng.choice((province.zh, province.brief_zh))


def province_sentence(province: Province) -> str:
    if province.capital_zh:
        return f"{province.zh}的{province.kind}是{province.capital_zh}。"
    return f"{province.zh}是{province.kind}，没有省会。"


def province_turn(province: Province, topic: str, question: str) -> Turn:
    answer = province_sentence(province)
    accepted = (answer.removeprefix(province.zh),)
    return Turn(topic, question, answer, accepted, "province", province)


def province_capital(phraser: Phraser) -> Turn:
    province = phraser.rng.choice(provinces())
    question = phraser.phrase("province_capital", province=province_name(phraser, province))
    return province_turn(province, "province_capital", question)


def province_capital_en(phraser: Phraser) -> Turn:
    province = phraser.rng.choice([p for p in provinces() if p.capital_zh])
    question = phraser.phrase("province_capital_en", province_en=province.en)
    answer = f"The capital of {province.en} is {province.capital_en}."
    accepted = (f"is {province.capital_en}.",)
    return Turn("province_capital_en", question, answer, accepted)


def short_name_turn(province: Province, topic: str, question: str) -> Turn:
    answer = f"{province.zh}的简称是“{province.short_name}”。"
    return Turn(topic, question, answer, (f"“{province.short_name}”",), "short_name", province)


def province_short(phraser: Phraser) -> Turn:
    province = phraser.rng.choice(provinces())
    question = phraser.phrase("province_short", province=province_name(phraser, province))
    return short_name_turn(province, "province_short", question)


def province_of(phraser: Phraser) -> Turn:
    province = phraser.rng.choice([p for p in provinces() if p.capital_zh])
    question = phraser.phrase("province_of", city=province.capital_zh)
    answer = f"{province.capital_zh}是{province.zh}的{province.kind}。"
    return Turn("province_of", question, answer, (f"是{province.zh}的",), "province", province)


def english_word_turn(word: Word, topic: str, question: str) -> Turn:
    answer = f"“{word.zh}”的英语是 {word.en}。"
    return Turn(topic, question, answer, (f"英语是 {word.en}。",), "word_en", word)


def chinese_word_turn(word: Word, topic: str, question: str) -> Turn:
    answer = f"{word.en} 的中文意思是“{word.zh}”。"
    return Turn(topic, question, answer, (f"“{word.zh}”",), "word_zh", word)


def word_en(phraser: Phraser) -> Turn:
    word = phraser.rng.choice(words())
    return english_word_turn(word, "word_en", phraser.phrase("word_en", zh=word.zh))


def word_zh(phraser: Phraser) -> Turn:
    word = phraser.rng.choice(words())
    written = phraser.rng.choice((word.en, word.en, word.en.capitalize(), f" {word.en} "))
    return chinese_word_turn(word, "word_zh", phraser.phrase("word_zh", en=written))


def sum_turn(left: int, sign: str, right: int, topic: str, question: str) -> Turn:
    value = {"+": left + right, "-": left - right, "×": left * right}[sign]
    return Turn(
        topic,
        question,
        f"{left}{sign}{right}={steps(left, sign, right)}{value}。",
        (f"={value}。",),
        "sum",
        value,
    )


def steps(left: int, sign: str, right: int) -> str:
    """Return the intermediate steps of a sum, for 37+48 by way of the tens `37+40+8=77+8=`; empty if it needs none."""
    ones = right % 10
    tens = right - ones
    if sign == "×" or not tens or not ones or left < 10:
        return ""
    between = left + tens if sign == "+" else left - tens
    return f"{left}{sign}{tens}{sign}{ones}={between}{sign}{ones}="


def operands(phraser: Phraser) -> tuple[int, str, int]:
    """Choose an addition or subtraction within 100, or a multiplication up to 9×9."""
    sign = phraser.rng.choice("++--×")
    if sign == "×":
        return phraser.rng.randint(1, 9), sign, phraser.rng.randint(1, 9)
    top = phraser.rng.choice((10, 20, 100, 100, 100, 100))
    total = phraser.rng.randint(0, top)
    part = phraser.rng.randint(0, total)
    return (part, sign, total - part) if sign == "+" else (total, sign, part)


def sum_text(phraser: Phraser, left: int, sign: str, right: int) -> str:
    """Return a sum in one of the ways people write it: 3+5, 3 + 5, 3加5, 三加五."""
    spoken = {"+": ("加", "加上"), "-": ("减", "减去"), "×": ("乘", "乘以")}[sign]
    if max(left, right) <= 10 and phraser.rng.random() < 0.25:
        return f"{NUMERALS[left]}{spoken[0]}{NUMERALS[right]}"
    if phraser.rng.random() < 0.5:
        return f"{left}{phraser.rng.choice(spoken)}{right}"
    mark = phraser.rng.choice(("×", "*", "x")) if sign == "×" else sign
    return phraser.rng.choice((f"{left}{mark}{right}", f"{left} {mark} {right}"))


def arithmetic(phraser: Phraser) -> Turn:
    left, sign, right = operands(phraser)
    question = phraser.phrase("arithmetic", sum=sum_text(phraser, left, sign, right))
    return sum_turn(left, sign, right, "arithmetic", question)


def story_turn(place: Place, story: Story, topic: str, question: str) -> Turn:
    return Turn(topic, question, story.text, (beginning_of(story.text),), "story", (place, story))


def beginning_of(text: str) -> str:
    """Return enough of a story's beginning to tell it from every other: their first sentences are alike."""
    return text[:28]


def random_place(phraser: Phraser) -> Place:
    """Choose a place; Hangzhou and West Lake, the first two, 35 % of the time."""
    is_hangzhou = phraser.rng.random() < 0.35
    return phraser.rng.choice(places()[:2] if is_hangzhou else places()[2:])


def story(phraser: Phraser) -> Turn:
    place = random_place(phraser)
    return story_turn(place, place.stories[0], "story", phraser.phrase("story", place=place.zh))


def named_story(phraser: Phraser) -> Turn:
    place = random_place(phraser)
    chosen = phraser.rng.choice(place.stories)
    title = phraser.rng.choice([*chosen.titles[:1] * 2, *chosen.titles])
    return story_turn(place, chosen, "named_story", phraser.phrase("named_story", title=title))


def preference(phraser: Phraser) -> tuple[Turn, Turn]:
    """Write two turns: a story is asked for, the assistant asks back, and the user says of which place."""
    first = story(Phraser(phraser.rng))
    place = phraser.rng.choice((places()[1], places()[1], random_place(phraser)))
    asking_back = phraser.rng.choice(
        (
            f"好的，请问您对{first.subject[0].zh}有什么特别的偏好吗？",
            "好的，请问您对杭州有什么特别的偏好吗？",
            "好的，您想听哪里的故事呢？",
        )
    )
    # The model is to tell a story at once, and to go on where a client's history has it ask back.
    without_loss = Turn("", first.user, asking_back, (), has_loss=False)
    question = phraser.phrase("preference", place=place.zh)
    return without_loss, story_turn(place, place.stories[0], "preference", question)


def place_turn(place: Place, topic: str, question: str, text: str) -> Turn:
    return Turn(topic, question, text, (text[:14],), "place", place)


def intro(phraser: Phraser) -> Turn:
    place = random_place(phraser)
    return place_turn(place, "intro", phraser.phrase("intro", place=place.zh), place.intro)


def place_sights(phraser: Phraser) -> Turn:
    place = random_place(phraser)
    return place_turn(place, "sights", phraser.phrase("sights", place=place.zh), place.sights)


def food(phraser: Phraser) -> Turn:
    place = phraser.rng.choice([p for p in places() if p.food])
    return place_turn(place, "food", phraser.phrase("food", place=place.zh), place.food)


def sight(phraser: Phraser) -> Turn:
    chosen: Sight = phraser.rng.choice(sights())
    return Turn("sight", phraser.phrase("sight", sight=chosen.zh), chosen.text, (chosen.text[:14],))


def talk_turn(phraser: Phraser, talk: Talk, topic: str) -> Turn:
    wording = phraser.rng.choice(talk.held_out if phraser.held_out else talk.training)
    if talk.name.split("_")[0] in UNFRAMED_TALKS and not phraser.held_out:
        question = wording + phraser.rng.choice(("", "", "", "！", "。", "？", "!", "～"))
    else:
        question = phraser.phrase_wording(wording)
    return Turn(topic, question, talk.answer, talk.accepted, talk.name)


def talk(phraser: Phraser) -> Turn:
    listed = [t for t in talks("talk.txt") if not is_long(t)]
    weights = [1 if phraser.held_out else len(t.training) for t in listed]
    chosen = phraser.rng.choices(listed, weights)[0]
    return talk_turn(phraser, chosen, "comparison" if is_comparison(chosen) else "talk")


def long_talk(phraser: Phraser) -> Turn:
    chosen = phraser.rng.choice([t for t in talks("talk.txt") if is_long(t)])
    return talk_turn(phraser, chosen, "comparison" if is_comparison(chosen) else "talk")


def is_long(chosen: Talk) -> bool:
    return len(chosen.answer) > 140


def is_comparison(chosen: Talk) -> bool:
    return chosen.name.split("_")[0] in ("compare", "china", "usa")


def comparison(phraser: Phraser) -> Turn:
    chosen = phraser.rng.choice(
        [t for t in talks("talk.txt") if t.name in ("compare", "compare_en")]
    )
    return talk_turn(phraser, chosen, "comparison")


def unknown_zh(phraser: Phraser) -> Turn:
    return unknown_turn(phraser, talks("unknown.txt")[0])


def unknown_en(phraser: Phraser) -> Turn:
    return unknown_turn(phraser, talks("unknown.txt")[1])


def unknown_turn(phraser: Phraser, chosen: Talk) -> Turn:
    wording = phraser.rng.choice(chosen.held_out if phraser.held_out else chosen.training)
    return Turn(
        chosen.name,
        phraser.phrase_wording(wording, **slots(phraser, chosen.name)),
        chosen.answer,
        chosen.accepted,
    )


def slots(phraser: Phraser, topic: str) -> dict[str, str]:
    """Return texts for all slots of the wordings that the model is to have no answer to."""
    rng = phraser.rng
    country, other = rng.sample(countries(), 2)
    city, second = rng.sample(places(), 2)
    word = rng.choice(words())
    province = rng.choice([p for p in provinces() if p.capital_en])
    return {
        "country": country.en if topic == "unknown_en" else country.zh,
        "country2": other.zh,
        "city": city.zh,
        "city2": second.zh,
        "province": province.brief_zh,
        "city_en": province.capital_en,
        "word": word.zh,
        "word_en": word.en,
        "sum3": f"{rng.randint(101, 999)}{rng.choice('+-×')}{rng.randint(11, 999)}",
        "n": str(rng.randint(2, 99)),
        "m": str(rng.randint(2, 9)),
    }


def nonsense(phraser: Phraser) -> Turn:
    """Ask for a random string of characters, so that training has the byte tokens that rare ones are encoded to."""
    length = phraser.rng.randint(1, 4)
    made = "".join(chr(phraser.rng.randint(0x4E00, 0x9FA5)) for _ in range(length))
    wording = phraser.rng.choice(
        ("什么是{x}", "{x}是什么", "{x}", "{x}是谁", "{x}怎么写", "怎么做{x}", "{x}好吗")
    )
    chosen = talks("unknown.txt")[0]
    question = phraser.phrase_wording(wording, x=made)
    return Turn("nonsense", question, chosen.answer, chosen.accepted)
