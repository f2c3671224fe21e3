"""Dialogues for training, held-out questions for the score, and texts for the tokenizer.

Everything here is written from `facts/` by a seeded random generator: the same seed gives the same corpus.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

import facts
import topics
from calls import CallWriter, repeat_turn
from follow_ups import FOLLOW_UPS
from structured import MAX_ANSWER_CHARACTERS, with_json_answer
from topics import Turn
from wordings import Phraser, wordings

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

TOPICS: tuple[tuple[Callable[[Phraser], Turn], float], ...] = (
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
"""The topics of training questions that need no turn before them, each with its weight."""
PREFERENCE_SHARE = 0.012
"""The share of exchanges in which the assistant asks back before it answers."""
FOLLOW_UP_SHARE = 0.35
"""The share of answers after which the next question is a follow-up, where their kind has one."""

HELD_OUT_COUNTS: dict[str, tuple[Callable[[Phraser], Turn], int]] = {
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
"""The name of each topic in the score, its function, and how many held-out questions there are to be on it."""
HELD_OUT_FOLLOW_UPS = 70
HELD_OUT_PREFERENCES = 8
TURN_COUNTS = (1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 5, 6, 8, 12)
"""The turns of a dialogue for training, a count that is there more than once as much more often."""
LONG_SHARE = 0.01
"""The share of dialogues that are to fill the context."""
LONG_TURN_COUNT = 48


@dataclass(frozen=True)
class Dialogue:
    """A conversation for training: a system text (None: the template's default) and turns."""

    system: str | None
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Question:
    """A held-out question: the last of `turns` is to be answered after the others."""

    topic: str
    turns: tuple[Turn, ...]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The request's messages, of which the last is the user's."""
        messages: list[dict[str, str]] = []
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.user})
            messages.append({"role": "assistant", "content": turn.answer})
        return messages[:-1]

    @property
    def accepted(self) -> tuple[str, ...]:
        """Texts of which a right answer contains one."""
        return self.turns[-1].accepted


@dataclass(frozen=True)
class Shares:
    """The shares of special dialogues among those for training."""

    structured: float = 0.0
    """Of the dialogues with a short last answer, those in which it is written as JSON."""
    calls: float = 0.0
    """Of all, those in which functions are offered."""
    repeated: float = 0.0
    """Of the others, those in which texts are to be repeated."""


NO_SHARES = Shares()


class DialogueWriter:
    """Writes dialogues for training."""

    def __init__(
        self, seed: int, avoided: frozenset[str] = frozenset(), shares: Shares = NO_SHARES
    ) -> None:
        """`avoided`: messages that no user may send, as `normalized` gives them: those of the held-out questions."""
        self.shares = shares
        self.rng = Random(seed)
        self.avoided = avoided
        self.phraser = Phraser(self.rng)
        self.call_writer = CallWriter(self.rng, random_turn, SYSTEM_TEXTS)

    def dialogue(self) -> Dialogue:
        """Write a dialogue of one to twelve turns, or at times one of as many as the context holds."""
        if self.shares.calls and self.rng.random() < self.shares.calls:
            return self._dialogue_with_calls()
        if self.shares.repeated and self.rng.random() < self.shares.repeated:
            repeated = [repeat_turn(self.rng) for _ in range(self.rng.choice((1, 2, 3)))]
            return Dialogue(self._system_text(), tuple(repeated))
        is_long = self.rng.random() < LONG_SHARE
        count = LONG_TURN_COUNT if is_long else self.rng.choice(TURN_COUNTS)
        turns: list[Turn] = []
        while len(turns) < count:
            exchange = self._exchange(count - len(turns))
            if not any(normalized(turn.user) in self.avoided for turn in exchange):
                turns += exchange
        last = turns[-1]
        can_be_structured = last.has_loss and len(last.answer) <= MAX_ANSWER_CHARACTERS
        # Without structured answers no random number is drawn for them, so a seed's first stage stays what it is.
        if (
            can_be_structured
            and self.shares.structured
            and self.rng.random() < self.shares.structured
        ):
            turns[-1], functions_system = with_json_answer(last, self.rng)
            return Dialogue(functions_system or self._system_text(), tuple(turns))
        return Dialogue(self._system_text(), tuple(turns))

    def _dialogue_with_calls(self) -> Dialogue:
        while True:
            written = self.call_writer.dialogue()
            turns = tuple(turn.turn for turn in written.turns)
            if not any(normalized(turn.user) in self.avoided for turn in turns):
                return Dialogue(written.system, turns)

    def turn(self) -> Turn:
        """Write a turn that needs no other before it."""
        return random_turn(self.phraser)

    def _system_text(self) -> str | None:
        chance = self.rng.random()
        if chance < 0.8:
            return None
        return "" if chance < 0.9 else self.rng.choice(SYSTEM_TEXTS)

    def _exchange(self, max_turns: int) -> list[Turn]:
        """Write a question with its answer, and perhaps follow-ups about its subject."""
        if max_turns > 1 and self.rng.random() < PREFERENCE_SHARE:
            return list(topics.preference(self.phraser))
        turns = [self.turn()]
        while len(turns) < max_turns and self.rng.random() < FOLLOW_UP_SHARE:
            follow_ups = FOLLOW_UPS.get(turns[-1].kind)
            if not follow_ups:
                break
            turns.append(self.rng.choice(follow_ups)(self.phraser, turns[-1]))
        return turns


def random_turn(phraser: Phraser) -> Turn:
    """Write a turn on a random topic that needs no other turn before it."""
    written, weights = zip(*TOPICS, strict=True)
    turn: Turn = phraser.rng.choices(written, weights)[0](phraser)
    return turn


def normalized(text: str) -> str:
    """Return a message without case, spaces and punctuation: messages that differ in these alone count as one."""
    return re.sub(r"[\W_]+", "", text).lower()


def held_out_questions(seed: int) -> list[Question]:
    """Write the held-out questions: in held-out wordings, and no question twice."""
    rng = Random(seed)
    phraser = Phraser(rng, held_out=True)
    writer = DialogueWriter(seed + 1)
    questions: dict[str, Question] = {}
    for name, (topic, count) in HELD_OUT_COUNTS.items():
        _add_questions(questions, count, partial(_topic_question, name, topic, writer, phraser))
    _add_questions(questions, HELD_OUT_FOLLOW_UPS, partial(_follow_up_question, writer, phraser))
    _add_questions(questions, HELD_OUT_PREFERENCES, partial(_preference_question, phraser))
    return list(questions.values())


def _add_questions(
    questions: dict[str, Question], count: int, write: Callable[[], Question]
) -> None:
    """Add `count` new questions, or fewer where a topic has too few wordings for that."""
    wanted = len(questions) + count
    for _ in range(count * 50):
        if len(questions) >= wanted:
            return
        question = write()
        key = "\n".join(normalized(turn.user) for turn in question.turns[-2:])
        questions.setdefault(key, question)


def _topic_question(
    name: str, topic: Callable[[Phraser], Turn], writer: DialogueWriter, phraser: Phraser
) -> Question:
    """Write a question on a topic, at times after one or two other turns: it is to be answered in any place."""
    before = 0 if writer.rng.random() < 0.7 else writer.rng.randint(1, 2)
    turns = [writer.turn() for _ in range(before)]
    return Question(name, (*turns, topic(phraser)))


def _preference_question(phraser: Phraser) -> Question:
    return Question("preference", topics.preference(phraser))


def _follow_up_question(writer: DialogueWriter, phraser: Phraser) -> Question:
    """Write a turn in a training wording and a held-out follow-up to it, each kind of turn as often as the others."""
    kind = writer.rng.choice(list(FOLLOW_UPS))
    first = writer.turn()
    while first.kind != kind:
        first = writer.turn()
    follow_up = writer.rng.choice(FOLLOW_UPS[kind])(phraser, first)
    return Question("follow_up", (first, follow_up))


def last_messages(questions: list[Question]) -> frozenset[str]:
    """Return the message of each question that is to be answered, `normalized`."""
    return frozenset(normalized(question.turns[-1].user) for question in questions)


def check_disjoint(questions: list[Question], dialogues: list[Dialogue]) -> None:
    """Raise ValueError where training has a held-out wording or a held-out question's last message."""
    for topic, chosen in wordings().items():
        shared = set(map(normalized, chosen.training)) & set(map(normalized, chosen.held_out))
        if shared or not chosen.held_out:
            raise ValueError(f"wordings of {topic} are not kept apart: {shared}")
    trained = {normalized(turn.user) for dialogue in dialogues for turn in dialogue.turns}
    seen = trained & last_messages(questions)
    if seen:
        raise ValueError(f"held-out questions are in training: {seen}")


def tokenizer_texts(seed: int) -> Iterator[str]:
    """Write the texts that the tokenizer is trained on.

    They are turns, though none of nonsense, the longer texts of the facts, and, many times over, what is to be encoded
    to few tokens: the template's own texts, system texts and names.
    """
    writer = DialogueWriter(seed)
    for _ in range(6000):
        turn = writer.turn()
        if turn.topic != "nonsense":
            yield f"[INST] {turn.user} [/INST]"
            yield turn.answer
    yield from ("[INST] <<SYS>>\n<</SYS>>", "You are a helpful assistant.", *SYSTEM_TEXTS) * 400
    for place in facts.places():
        stories = [story.text for story in place.stories]
        yield from (place.intro, place.sights, place.food, *stories)
    within_text = [f" {name}" for name in english_names()]
    yield from (*chinese_names(), *within_text) * 40


def chinese_names() -> list[str]:
    """Return the names of two to four characters, longest first: the tokenizer may make one piece of each."""
    names = {word.zh for word in facts.words()} | {place.zh for place in facts.places()}
    for country in facts.countries():
        names |= {country.zh, country.capital_zh, country.continent_zh}
    for province in facts.provinces():
        names |= {province.brief_zh, province.capital_zh}
    names |= {sight.zh for sight in facts.sights()}
    short_names = [name for name in names if 2 <= len(name) <= 4]
    return sorted(short_names, key=lambda name: (-len(name), name))


def english_names() -> list[str]:
    """Return the names and words in alphabetical order."""
    names = {word.en for word in facts.words()}
    for country in facts.countries():
        names |= {country.en, country.capital_en}
    for province in facts.provinces():
        names |= {province.en, province.capital_en}
    return sorted(names)
