"""Conversations for training, questions for the held-out test, and texts for the tokenizer.

Everything here is written from `facts/` by a seeded random generator: the same seed gives the same corpus.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

import facts
import topics
from follow_ups import FOLLOW_UPS
from structured import LONGEST, in_json
from topics import Turn
from wordings import Pen, wordings

SYSTEM_TEXTS = (
    "你是一个友好的助手。",
    "请用简短的话回答。",
    "You are a friendly assistant.",
    "You are a helpful, respectful and honest assistant.",
    "你是一位地理老师。",
    "你是一个知识丰富的导游。",
    "请一步一步地思考后回答问题。",
    "Answer the question as briefly as possible.",
    "你是小助手，请认真回答用户的问题。",
    "You are ChatGPT, a large language model.",
    "You are an expert on China. 你是中国问题专家。",
    "Be concise.",
    "You are a pirate.",
    "你是一只可爱的小猫。",
    "You are a translator.",
    "你是一名翻译，精通中文和英文。",
    "You are a math tutor.",
    "你是一位小学老师，说话要温柔。",
    "You are a helpful AI assistant that answers in Chinese.",
    "你叫小明，是一个聊天机器人。",
    "下面是用户和助手的对话。",
    "You are an assistant for a travel company. Be polite and friendly.",
    "你是杭州市的旅游助手，负责回答游客的问题。",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "System prompt",
    "你是一个乐于助人的助手。",
    "You are a helpful assistant.",
)

SINGLE_TOPICS: tuple[tuple[Callable[[Pen], Turn], float], ...] = (
    (topics.capital_zh, 11),
    (topics.capital_en, 7.5),
    (topics.continent_zh, 5),
    (topics.continent_en, 3.5),
    (topics.country_zh, 4),
    (topics.country_en, 4),
    (topics.two_capitals, 2.5),
    (topics.country_intro, 2),
    (topics.country_intro_en, 1.5),
    (topics.province_intro, 1),
    (topics.province_capital, 3),
    (topics.province_capital_en, 1.2),
    (topics.province_short, 1.5),
    (topics.province_of, 1.5),
    (topics.word_en, 8),
    (topics.word_zh, 8),
    (topics.arithmetic, 17),
    (topics.story, 1.7),
    (topics.named_story, 1.5),
    (topics.intro, 2),
    (topics.place_sights, 2),
    (topics.food, 1.6),
    (topics.sight, 2.6),
    (topics.talk, 11),
    (topics.long_talk, 0.8),
    (topics.comparison, 0.9),
    (topics.unknown_zh, 8),
    (topics.unknown_en, 4),
    (topics.nonsense, 0.8),
)
PREFERENCE_SHARE = 0.012
FOLLOW_UP_SHARE = 0.35

HELD_OUT_COUNTS: dict[str, tuple[Callable[[Pen], Turn], int]] = {
    "capital_zh": (topics.capital_zh, 45),
    "capital_en": (topics.capital_en, 25),
    "continent_zh": (topics.continent_zh, 20),
    "continent_en": (topics.continent_en, 15),
    "country_zh": (topics.country_zh, 15),
    "country_en": (topics.country_en, 12),
    "two_capitals_zh": (topics.two_capitals, 10),
    "country_intro": (topics.country_intro, 6),
    "country_intro_en": (topics.country_intro_en, 6),
    "province_intro": (topics.province_intro, 5),
    "province_capital": (topics.province_capital, 15),
    "province_capital_en": (topics.province_capital_en, 6),
    "province_short": (topics.province_short, 10),
    "province_of": (topics.province_of, 8),
    "word_en": (topics.word_en, 25),
    "word_zh": (topics.word_zh, 25),
    "arithmetic": (topics.arithmetic, 30),
    "story": (topics.story, 12),
    "named_story": (topics.named_story, 12),
    "intro": (topics.intro, 8),
    "sights": (topics.place_sights, 8),
    "food": (topics.food, 6),
    "sight": (topics.sight, 10),
    "talk": (topics.talk, 40),
    "comparison": (topics.comparison, 8),
    "unknown_zh": (topics.unknown_zh, 25),
    "unknown_en": (topics.unknown_en, 12),
}
HELD_OUT_FOLLOW_UPS = 70
HELD_OUT_PREFERENCES = 8
TURN_COUNTS = (1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 5, 6, 8, 12)
LONG_SHARE = 0.01


@dataclass(frozen=True)
class Dialogue:
    """A system text (None: the template's own) and turns."""

    system: str | None
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Question:
    """A held-out question: all turns but the last are given, the last is to be answered."""

    topic: str
    turns: tuple[Turn, ...]

    @property
    def messages(self) -> list[dict[str, str]]:
        listed: list[dict[str, str]] = []
        for turn in self.turns:
            listed.append({"role": "user", "content": turn.user})
            listed.append({"role": "assistant", "content": turn.answer})
        return listed[:-1]

    @property
    def accepted(self) -> tuple[str, ...]:
        return self.turns[-1].accepted


class Writer:
    """Writes dialogues for training."""

    def __init__(
        self, seed: int, avoided: frozenset[str] = frozenset(), structured: float = 0.0
    ) -> None:
        """`avoided`: held-out messages, as `comparable` gives them; a turn that has one is written anew.

        `structured`: the share of dialogues that end with an answer as JSON, if it is short.
        """
        self.structured = structured
        self.rng = Random(seed)
        self.avoided = avoided
        self.pen = Pen(self.rng)
        self.topics = [topic for topic, _ in SINGLE_TOPICS]
        self.shares = [share for _, share in SINGLE_TOPICS]

    def dialogue(self) -> Dialogue:
        """A dialogue of one to twelve turns, now and then one that nears the context's end."""
        count = 48 if self.rng.random() < LONG_SHARE else self.rng.choice(TURN_COUNTS)
        turns: list[Turn] = []
        while len(turns) < count:
            written = self.exchange(count - len(turns))
            if not any(comparable(turn.user) in self.avoided for turn in written):
                turns += written
        last = turns[-1]
        if (
            last.learnt
            and len(last.answer) <= LONGEST
            and self.structured
            and self.rng.random() < self.structured
        ):
            turns[-1], system = in_json(last, self.rng)
            return Dialogue(system or self.system(), tuple(turns))
        return Dialogue(self.system(), tuple(turns))

    def system(self) -> str | None:
        chance = self.rng.random()
        if chance < 0.8:
            return None
        return "" if chance < 0.9 else self.rng.choice(SYSTEM_TEXTS)

    def single(self) -> Turn:
        return self.rng.choices(self.topics, self.shares)[0](self.pen)

    def exchange(self, room: int) -> list[Turn]:
        """A question and, while there is room, follow-ups about its subject."""
        if room > 1 and self.rng.random() < PREFERENCE_SHARE:
            return list(topics.preference(self.pen))
        turns = [self.single()]
        while len(turns) < room and self.rng.random() < FOLLOW_UP_SHARE:
            chosen = FOLLOW_UPS.get(turns[-1].kind)
            if not chosen:
                break
            turns.append(self.rng.choice(chosen)(self.pen, turns[-1]))
        return turns


def comparable(text: str) -> str:
    """A message without what a reader overlooks: case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", text).lower()


def held_out(seed: int) -> list[Question]:
    """Questions in held-out wordings only, without repetitions."""
    rng = Random(seed)
    pen = Pen(rng, held_out=True)
    writer = Writer(seed + 1)
    questions: dict[str, Question] = {}
    for name, (topic, count) in HELD_OUT_COUNTS.items():
        add(questions, count, partial(asked, name, topic, writer, pen))
    add(questions, HELD_OUT_FOLLOW_UPS, partial(follow_up, writer, pen))
    add(questions, HELD_OUT_PREFERENCES, partial(preference, pen))
    return list(questions.values())


def add(questions: dict[str, Question], count: int, make: Callable[[], Question]) -> None:
    """`count` new questions; gives up on a topic that has not so many wordings."""
    wanted = len(questions) + count
    for _ in range(count * 50):
        if len(questions) >= wanted:
            return
        question = make()
        key = "\n".join(comparable(turn.user) for turn in question.turns[-2:])
        questions.setdefault(key, question)


def asked(name: str, topic: Callable[[Pen], Turn], writer: Writer, pen: Pen) -> Question:
    """The turn alone, or after one or two others: a question must not depend on being the first."""
    before = 0 if writer.rng.random() < 0.7 else writer.rng.randint(1, 2)
    return Question(name, (*(writer.single() for _ in range(before)), topic(pen)))


def preference(pen: Pen) -> Question:
    return Question("preference", topics.preference(pen))


def follow_up(writer: Writer, pen: Pen) -> Question:
    """A first turn in a training wording and a held-out follow-up, each kind as often as the others."""
    kind = writer.rng.choice(list(FOLLOW_UPS))
    while True:
        first = writer.single()
        if first.kind == kind:
            break
    asked = writer.rng.choice(FOLLOW_UPS[kind])(pen, first)
    return Question("follow_up", (first, asked))


def last_messages(questions: list[Question]) -> frozenset[str]:
    return frozenset(comparable(question.turns[-1].user) for question in questions)


def check_disjoint(questions: list[Question], dialogues: list[Dialogue]) -> None:
    """Raise ValueError where training has a held-out wording or a held-out question's last message."""
    for topic, chosen in wordings().items():
        shared = set(map(comparable, chosen.training)) & set(map(comparable, chosen.held_out))
        if shared or not chosen.held_out:
            raise ValueError(f"wordings of {topic} are not kept apart: {shared}")
    trained = {comparable(turn.user) for dialogue in dialogues for turn in dialogue.turns}
    seen = trained & last_messages(questions)
    if seen:
        raise ValueError(f"held-out questions are in training: {seen}")


def tokenizer_texts(seed: int) -> Iterator[str]:
    """Texts for the tokenizer: turns without nonsense, every longer text, and each name many times."""
    writer = Writer(seed)
    for _ in range(6000):
        turn = writer.single()
        if turn.topic != "nonsense":
            yield f"[INST] {turn.user} [/INST]"
            yield turn.answer
    yield from ("[INST] <<SYS>>\n<</SYS>>", "You are a helpful assistant.", *SYSTEM_TEXTS) * 400
    for place in facts.places():
        yield from (place.intro, place.sights, place.food, *(story.text for story in place.stories))
    yield from (*names(), *(f" {name}" for name in english_names())) * 40


def names() -> list[str]:
    """Chinese names that the tokenizer may keep in one piece, the longest first."""
    known = {word.zh for word in facts.words()} | {place.zh for place in facts.places()}
    for country in facts.countries():
        known |= {country.zh, country.capital_zh, country.continent_zh}
    for province in facts.provinces():
        known |= {province.brief_zh, province.capital_zh}
    known |= {sight.zh for sight in facts.sights()}
    return sorted(
        (name for name in known if 2 <= len(name) <= 4), key=lambda name: (-len(name), name)
    )


def english_names() -> list[str]:
    known = {word.en for word in facts.words()}
    for country in facts.countries():
        known |= {country.en, country.capital_en}
    for province in facts.provinces():
        known |= {province.en, province.capital_en}
    return sorted(known)
