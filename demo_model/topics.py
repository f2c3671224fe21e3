"""One turn of talk on each topic: a question in the pen's wording, and the right answer."""

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
from wordings import Pen

SHORT_TALKS = ("greeting", "wellbeing", "thanks", "farewell", "praise", "complaint", "identity")
NUMERALS = "零一二三四五六七八九十"


@dataclass(frozen=True)
class Turn:
    """A question and its answer, which is not learnt where `learnt` is false, nor how it begins if it is structured.

    `kind` and `subject` are what a follow-up ("那它的首都呢？") needs to know.
    """

    topic: str
    user: str
    answer: str
    accepted: tuple[str, ...]
    kind: str = ""
    subject: Any = None
    learnt: bool = True
    is_structured: bool = False


def named(pen: Pen, name: str) -> str:
    """A country's name as a question may have it: an alias, or English without its article."""
    chosen = pen.rng.choice((name, name, *ALIASES.get(name, ())))
    if chosen.startswith("the ") and pen.rng.random() < 0.25:
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


def a_country(pen: Pen) -> Country:
    """A country, the two that every newcomer asks for more often than the others."""
    if pen.rng.random() < 0.04:
        return pen.rng.choice([c for c in countries() if c.zh in ("中国", "美国")])
    return pen.rng.choice(countries())


def told_capital_zh(country: Country, topic: str, question: str) -> Turn:
    accepted = (f"首都是{country.capital_zh}。",)
    return Turn(topic, question, capital_sentence_zh(country), accepted, "capital_zh", country)


def told_capital_en(country: Country, topic: str, question: str) -> Turn:
    accepted = (f"is {country.capital_en}.",)
    return Turn(topic, question, capital_sentence_en(country), accepted, "capital_en", country)


def told_continent_zh(country: Country, topic: str, question: str) -> Turn:
    accepted = (f"位于{country.continent_zh}。",)
    return Turn(topic, question, continent_sentence_zh(country), accepted, "continent_zh", country)


def told_continent_en(country: Country, topic: str, question: str) -> Turn:
    accepted = (f"in {country.continent_en}.",)
    return Turn(topic, question, continent_sentence_en(country), accepted, "continent_en", country)


def capital_zh(pen: Pen) -> Turn:
    country = a_country(pen)
    question = pen.ask(
        "capital_zh", country=named(pen, country.zh), guess=guessed(pen, country).capital_zh
    )
    return told_capital_zh(country, "capital_zh", question)


def capital_en(pen: Pen) -> Turn:
    country = a_country(pen)
    question = pen.ask(
        "capital_en", country=named(pen, country.en), guess=guessed(pen, country).capital_en
    )
    return told_capital_en(country, "capital_en", question)


def continent_zh(pen: Pen) -> Turn:
    country = a_country(pen)
    question = pen.ask("continent_zh", country=named(pen, country.zh))
    return told_continent_zh(country, "continent_zh", question)


def continent_en(pen: Pen) -> Turn:
    country = a_country(pen)
    question = pen.ask("continent_en", country=named(pen, country.en))
    return told_continent_en(country, "continent_en", question)


def country_zh(pen: Pen) -> Turn:
    country = pen.rng.choice([c for c in countries() if c.capital_zh != c.zh])
    question = pen.ask("country_zh", capital=country.capital_zh)
    answer = f"{country.capital_zh}是{country.zh}的首都。"
    return Turn("country_zh", question, answer, (f"是{country.zh}的",), "country_zh", country)


def country_en(pen: Pen) -> Turn:
    country = pen.rng.choice([c for c in countries() if c.capital_en != c.en])
    question = pen.ask("country_en", capital=country.capital_en)
    answer = f"{country.capital_en} is the capital of {country.en}."
    return Turn("country_en", question, answer, (f"of {country.en}.",), "country_en", country)


def guessed(pen: Pen, country: Country) -> Country:
    """The country itself, or as often another, perhaps of the same continent."""
    chance = pen.rng.random()
    if chance < 0.5:
        return country
    return pen.rng.choice(
        [c for c in countries() if chance < 0.75 or c.continent_zh == country.continent_zh]
    )


def two_capitals(pen: Pen) -> Turn:
    first, second = pen.rng.sample(countries(), 2)
    question = pen.ask("two_capitals_zh", country=first.zh, other=second.zh)
    answer = f"{first.zh}的首都是{first.capital_zh}，{second.zh}的首都是{second.capital_zh}。"
    accepted = (answer,)
    return Turn("two_capitals_zh", question, answer, accepted)


def country_intro(pen: Pen) -> Turn:
    country = a_country(pen)
    question = pen.ask("country_intro", country=named(pen, country.zh))
    answer = f"{country.zh}位于{country.continent_zh}，首都是{country.capital_zh}。"
    return Turn("country_intro", question, answer, (answer,), "country_zh", country)


def country_intro_en(pen: Pen) -> Turn:
    country = a_country(pen)
    question = pen.ask("country_intro_en", country=named(pen, country.en))
    answer = f"{continent_sentence_en(country)} Its capital is {country.capital_en}."
    return Turn("country_intro_en", question, answer, (answer,), "country_en", country)


def province_intro(pen: Pen) -> Turn:
    """A province in one sentence, except those that are asked for as cities."""
    cities = {place.zh for place in places()}
    province = pen.rng.choice([p for p in provinces() if p.brief_zh not in cities])
    question = pen.ask("province_intro", province=province_name(pen, province))
    seat = (
        f"{province.kind}是{province.capital_zh}" if province.capital_zh else f"是{province.kind}"
    )
    answer = f"{province.zh}的简称是“{province.letter}”，{seat}。"
    return Turn("province_intro", question, answer, (answer,), "letter", province)


def province_name(pen: Pen, province: Province) -> str:
    return pen.rng.choice((province.zh, province.brief_zh))


def province_sentence(province: Province) -> str:
    if province.capital_zh:
        return f"{province.zh}的{province.kind}是{province.capital_zh}。"
    return f"{province.zh}是{province.kind}，没有省会。"


def told_province(province: Province, topic: str, question: str) -> Turn:
    answer = province_sentence(province)
    accepted = (answer.removeprefix(province.zh),)
    return Turn(topic, question, answer, accepted, "province", province)


def province_capital(pen: Pen) -> Turn:
    province = pen.rng.choice(provinces())
    question = pen.ask("province_capital", province=province_name(pen, province))
    return told_province(province, "province_capital", question)


def province_capital_en(pen: Pen) -> Turn:
    province = pen.rng.choice([p for p in provinces() if p.capital_zh])
    question = pen.ask("province_capital_en", province_en=province.en)
    answer = f"The capital of {province.en} is {province.capital_en}."
    accepted = (f"is {province.capital_en}.",)
    return Turn("province_capital_en", question, answer, accepted)


def told_letter(province: Province, topic: str, question: str) -> Turn:
    answer = f"{province.zh}的简称是“{province.letter}”。"
    return Turn(topic, question, answer, (f"“{province.letter}”",), "letter", province)


def province_short(pen: Pen) -> Turn:
    province = pen.rng.choice(provinces())
    question = pen.ask("province_short", province=province_name(pen, province))
    return told_letter(province, "province_short", question)


def province_of(pen: Pen) -> Turn:
    province = pen.rng.choice([p for p in provinces() if p.capital_zh])
    question = pen.ask("province_of", city=province.capital_zh)
    answer = f"{province.capital_zh}是{province.zh}的{province.kind}。"
    return Turn("province_of", question, answer, (f"是{province.zh}的",), "province", province)


def told_english(word: Word, topic: str, question: str) -> Turn:
    answer = f"“{word.zh}”的英语是 {word.en}。"
    return Turn(topic, question, answer, (f"英语是 {word.en}。",), "word_en", word)


def told_chinese(word: Word, topic: str, question: str) -> Turn:
    answer = f"{word.en} 的中文意思是“{word.zh}”。"
    return Turn(topic, question, answer, (f"“{word.zh}”",), "word_zh", word)


def word_en(pen: Pen) -> Turn:
    word = pen.rng.choice(words())
    return told_english(word, "word_en", pen.ask("word_en", zh=word.zh))


def word_zh(pen: Pen) -> Turn:
    word = pen.rng.choice(words())
    written = pen.rng.choice((word.en, word.en, word.en.capitalize(), f" {word.en} "))
    return told_chinese(word, "word_zh", pen.ask("word_zh", en=written))


def told_sum(left: int, sign: str, right: int, topic: str, question: str) -> Turn:
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
    """37+48 by way of the tens: `37+40+8=77+8=`; nothing where the sum is done at once."""
    tens, ones = right - right % 10, right % 10
    if sign == "×" or not tens or not ones or left < 10:
        return ""
    between = left + tens if sign == "+" else left - tens
    return f"{left}{sign}{tens}{sign}{ones}={between}{sign}{ones}="


def operands(pen: Pen) -> tuple[int, str, int]:
    """Addition and subtraction within 100, multiplication up to 9×9."""
    sign = pen.rng.choice("++--×")
    if sign == "×":
        return pen.rng.randint(1, 9), sign, pen.rng.randint(1, 9)
    top = pen.rng.choice((10, 20, 100, 100, 100, 100))
    total = pen.rng.randint(0, top)
    part = pen.rng.randint(0, total)
    return (part, sign, total - part) if sign == "+" else (total, sign, part)


def sum_text(pen: Pen, left: int, sign: str, right: int) -> str:
    """The sum as people write it: 3+5, 3 + 5, 3加5, 三加五."""
    spoken = {"+": ("加", "加上"), "-": ("减", "减去"), "×": ("乘", "乘以")}[sign]
    if max(left, right) <= 10 and pen.rng.random() < 0.25:
        return f"{NUMERALS[left]}{spoken[0]}{NUMERALS[right]}"
    if pen.rng.random() < 0.5:
        return f"{left}{pen.rng.choice(spoken)}{right}"
    mark = pen.rng.choice(("×", "*", "x")) if sign == "×" else sign
    return pen.rng.choice((f"{left}{mark}{right}", f"{left} {mark} {right}"))


def arithmetic(pen: Pen) -> Turn:
    left, sign, right = operands(pen)
    question = pen.ask("arithmetic", sum=sum_text(pen, left, sign, right))
    return told_sum(left, sign, right, "arithmetic", question)


def told_story(place: Place, story: Story, topic: str, question: str) -> Turn:
    return Turn(topic, question, story.text, (opening_of(story.text),), "story", (place, story))


def opening_of(text: str) -> str:
    """Enough of a text's beginning to tell it from every other."""
    return text[:28]


def a_place(pen: Pen) -> Place:
    """A place; Hangzhou and West Lake half of the time."""
    return pen.rng.choice(places()[:2] if pen.rng.random() < 0.35 else places()[2:])


def story(pen: Pen) -> Turn:
    place = a_place(pen)
    return told_story(place, place.stories[0], "story", pen.ask("story", place=place.zh))


def named_story(pen: Pen) -> Turn:
    place = a_place(pen)
    chosen = pen.rng.choice(place.stories)
    title = pen.rng.choice([*chosen.titles[:1] * 2, *chosen.titles])
    return told_story(place, chosen, "named_story", pen.ask("named_story", title=title))


def preference(pen: Pen) -> tuple[Turn, Turn]:
    """A story asked for, a question back, and the wish: the second example of the README."""
    first = story(Pen(pen.rng))
    place = pen.rng.choice((places()[1], places()[1], a_place(pen)))
    back = pen.rng.choice(
        (
            f"好的，请问您对{first.subject[0].zh}有什么特别的偏好吗？",
            "好的，请问您对杭州有什么特别的偏好吗？",
            "好的，您想听哪里的故事呢？",
        )
    )
    asked = Turn("", first.user, back, (), learnt=False)
    question = pen.ask("preference", place=place.zh)
    return asked, told_story(place, place.stories[0], "preference", question)


def told_place(place: Place, topic: str, question: str, text: str) -> Turn:
    return Turn(topic, question, text, (text[:14],), "place", place)


def intro(pen: Pen) -> Turn:
    place = a_place(pen)
    return told_place(place, "intro", pen.ask("intro", place=place.zh), place.intro)


def place_sights(pen: Pen) -> Turn:
    place = a_place(pen)
    return told_place(place, "sights", pen.ask("sights", place=place.zh), place.sights)


def food(pen: Pen) -> Turn:
    place = pen.rng.choice([p for p in places() if p.food])
    return told_place(place, "food", pen.ask("food", place=place.zh), place.food)


def sight(pen: Pen) -> Turn:
    chosen: Sight = pen.rng.choice(sights())
    return Turn("sight", pen.ask("sight", sight=chosen.zh), chosen.text, (chosen.text[:14],))


def asked_talk(pen: Pen, talk: Talk, topic: str) -> Turn:
    wording = pen.rng.choice(talk.held_out if pen.held_out else talk.training)
    if talk.name.split("_")[0] in SHORT_TALKS and not pen.held_out:
        question = wording + pen.rng.choice(("", "", "", "！", "。", "？", "!", "～"))
    else:
        question = pen.put(wording)
    return Turn(topic, question, talk.answer, talk.accepted, talk.name)


def talk(pen: Pen) -> Turn:
    listed = [t for t in talks("talk.txt") if not is_long(t)]
    weights = [1 if pen.held_out else len(t.training) for t in listed]
    chosen = pen.rng.choices(listed, weights)[0]
    return asked_talk(pen, chosen, "comparison" if is_comparison(chosen) else "talk")


def long_talk(pen: Pen) -> Turn:
    chosen = pen.rng.choice([t for t in talks("talk.txt") if is_long(t)])
    return asked_talk(pen, chosen, "comparison" if is_comparison(chosen) else "talk")


def is_long(chosen: Talk) -> bool:
    return len(chosen.answer) > 140


def is_comparison(chosen: Talk) -> bool:
    return chosen.name.split("_")[0] in ("compare", "china", "usa")


def comparison(pen: Pen) -> Turn:
    chosen = pen.rng.choice([t for t in talks("talk.txt") if t.name in ("compare", "compare_en")])
    return asked_talk(pen, chosen, "comparison")


def unknown_zh(pen: Pen) -> Turn:
    return asked_unknown(pen, talks("unknown.txt")[0])


def unknown_en(pen: Pen) -> Turn:
    return asked_unknown(pen, talks("unknown.txt")[1])


def asked_unknown(pen: Pen, chosen: Talk) -> Turn:
    wording = pen.rng.choice(chosen.held_out if pen.held_out else chosen.training)
    return Turn(
        chosen.name, pen.put(wording, **slots(pen, chosen.name)), chosen.answer, chosen.accepted
    )


def slots(pen: Pen, topic: str) -> dict[str, str]:
    """Fillings for questions that the model does not know."""
    rng = pen.rng
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


def nonsense(pen: Pen) -> Turn:
    """A question about what no text names, so that every byte of UTF-8 has been seen once."""
    made = "".join(chr(pen.rng.randint(0x4E00, 0x9FA5)) for _ in range(pen.rng.randint(1, 4)))
    wording = pen.rng.choice(
        ("什么是{x}", "{x}是什么", "{x}", "{x}是谁", "{x}怎么写", "怎么做{x}", "{x}好吗")
    )
    chosen = talks("unknown.txt")[0]
    question = pen.put(wording, x=made)
    return Turn("nonsense", question, chosen.answer, chosen.accepted)
