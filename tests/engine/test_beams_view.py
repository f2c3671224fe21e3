"""The beams of a search as they are shown while it runs: with the texts that they would be answered with."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from engine.beam_search import (
    Beam,
    BeamSearch,
    BeamSearchConfig,
    ChoiceText,
    Show,
    TopLogprobs,
    beam_search,
)
from generation import BeamsDelta, Delta, Prompt
from prompts.encoder import SentencePieceEncoder
from settings import DEMO_MODEL
from tests.support.scripted_model import ScriptedModel

pytestmark = pytest.mark.engine

EOS = 2
TEXT = "北京。😀龘 the capital\n"
ROUNDS = 40


class Clock:
    """Stands in for `time`: each look at it is `step` seconds later."""

    def __init__(self, step: float) -> None:
        self.step, self.now = step, 100.0

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


class Search:
    """A search over a made-up model that speaks some tokens of the demo model, and what it showed at each step."""

    def __init__(self, encoder: SentencePieceEncoder, seed: int, stops: Sequence[str] = ()) -> None:
        from vllm.sampling_params import SamplingParams
        from vllm.tokenizers.registry import get_tokenizer

        from engine.detokenizer import AnswerText
        from engine.vllm_beams import BeamsView, StopStrings

        chooser = random.Random(seed)
        answer = encoder.encode([TEXT])
        self.lead_ids = frozenset(answer[:1])
        self.vocabulary = list(dict.fromkeys([EOS, *answer]))
        self.model = ScriptedModel(seed, len(self.vocabulary), evenness=1.5)
        width = chooser.randint(1, 5)
        self.config = BeamSearchConfig(
            num_beams=width,
            n=chooser.randint(1, width),
            max_tokens=chooser.choice([1, 9, 30]),
            length_penalty=chooser.choice([0.0, 1.0, 2.0]),
            early_stopping=chooser.choice([True, False]),
            stop_token_ids=frozenset([EOS, chooser.choice(self.vocabulary)]),
            lead_ids=chooser.choice([self.lead_ids, frozenset()]),
            has_stop_strings=bool(stops),
        )
        self.steps = 0
        keeps_stop = chooser.random() < 0.3
        params = SamplingParams(
            stop=list(stops), include_stop_str_in_output=keeps_stop, max_tokens=50
        )
        tokenizer, prompt = get_tokenizer(str(DEMO_MODEL)), Prompt([1], answer_lead=" ")
        texts = [AnswerText(tokenizer, prompt, params) for _ in range(self.config.n)]
        hits = StopStrings(AnswerText(tokenizer, prompt, params)) if stops else None
        self.beams = BeamSearch(self.config, hits)
        view = BeamsView(self.beams, AnswerText(tokenizer, prompt, params))
        self.deltas = asyncio.run(self._run(texts, view))
        self.shown = [delta for delta in self.deltas if isinstance(delta, BeamsDelta)]

    async def _run(self, texts: Sequence[ChoiceText], view: Show) -> list[Delta]:
        found = beam_search(self.beams, self._next_tokens, texts, True, view)
        return [delta async for delta in found]

    async def _next_tokens(self, beams: Sequence[Beam]) -> Sequence[TopLogprobs]:
        self.steps += 1
        return [
            [
                (self.vocabulary[token_id], logprob)
                for token_id, logprob in self.model.likeliest(
                    beam.token_ids(), len(self.vocabulary)
                )
            ]
            for beam in beams
        ]

    def answers(self) -> list[tuple[str, str]]:
        """The texts of the choices, and why they ended."""
        texts, reasons = [""] * self.config.n, [""] * self.config.n
        for delta in self.deltas:
            texts[delta.index] += delta.text
            reasons[delta.index] = delta.finish_reason or ""
        return [*zip(texts, reasons, strict=True)]


@pytest.mark.parametrize("stops", [(), ("京",), ("。", "the c"), (" ", "龘")], ids=str)
@pytest.mark.parametrize("every", [0, 3], ids=lambda every: f"every {every}")
def test_what_is_shown_of_a_result_is_its_text(
    demo_encoder: SentencePieceEncoder,
    monkeypatch: pytest.MonkeyPatch,
    stops: tuple[str, ...],
    every: int,
) -> None:
    monkeypatch.setattr("engine.vllm_beams.SHOWN_EVERY", every)
    monkeypatch.setattr("engine.vllm_beams.time", Clock(1.0))
    texts: set[str] = set()
    for seed in range(ROUNDS):
        search = Search(demo_encoder, seed, stops)
        beams = search.shown[-1].beams
        finished = [beam for beam in beams if beam.finish_reason is not None]
        answers = search.answers()
        assert [(beam.text, beam.finish_reason) for beam in finished[: len(answers)]] == answers
        scores = [search.beams.score(beam) for beam in search.beams.finished]
        assert [beam.score for beam in finished] == scores
        texts.update(text for text, _ in answers)
    assert len(texts) > 20


def test_live_beams_come_first_by_score_and_their_texts_only_grow(
    demo_encoder: SentencePieceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.vllm_beams.SHOWN_EVERY", 0)
    grown = 0
    for seed in range(ROUNDS):
        search = Search(demo_encoder, seed, ("the c",))
        assert len(search.shown) == search.steps
        before = [""]
        for delta in search.shown:
            assert (delta.text, delta.token_ids, delta.finish_reason) == ("", (), None)
            live = [beam for beam in delta.beams if beam.finish_reason is None]
            finished = [*delta.beams[len(live) :]]
            assert [*delta.beams] == live + finished
            for kind in (live, finished):
                assert kind == sorted(kind, key=lambda beam: beam.score, reverse=True)
            for beam in live:
                assert any(beam.text.startswith(text) for text in before)
                assert "the c" not in beam.text
            before = [beam.text for beam in live]
            grown = max(grown, *map(len, before), 0)
    assert grown > 20


def test_beams_are_shown_at_most_eight_times_in_any_second_and_at_the_end(
    demo_encoder: SentencePieceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(ROUNDS):
        clock = Clock(random.Random(seed).choice([0.001, 0.05, 0.2]))
        monkeypatch.setattr("engine.vllm_beams.time", clock)
        search = Search(demo_encoder, seed)
        took = search.steps * clock.step
        assert 1 <= len(search.shown) <= 2 + 7 * took
        if clock.step > 0.15:
            assert len(search.shown) == search.steps
        last = max(at for at, delta in enumerate(search.deltas) if isinstance(delta, BeamsDelta))
        results = search.deltas[last + 1 :]
        assert [delta.index for delta in results] == [*range(search.config.n)]
        assert all(delta.finish_reason for delta in results)
