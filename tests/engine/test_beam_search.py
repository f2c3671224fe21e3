"""Beam search over made-up models: brute force and transformers agree with it, whatever the config."""

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest

from engine.beam_search import Beam, BeamSearch, BeamSearchConfig, beam_search
from engine.greedy_runs import GreedyRuns, TokenCallback
from generation import Delta, TokenLogprob
from tests.support.scripted_model import EOS, ScriptedModel

LENGTH_PENALTIES = (-1.0, 0.0, 0.5, 1.0, 2.0)
EarlyStopping = Literal[True, False, "never"]
EARLY_STOPPINGS: tuple[EarlyStopping, ...] = (False, True, "never")


class Letters:
    """A text where token i is the i-th letter; what ends it is left out."""

    cut = ""

    def __init__(self) -> None:
        self.is_whole = False

    def add(self, token_ids: list[int], is_last: bool, ends_with_stop_token: bool) -> str:
        assert not self.is_whole
        self.is_whole = is_last
        return "".join(
            chr(ord("a") + token_id)
            for token_id in token_ids[: -1 if ends_with_stop_token else None]
        )


def collect(
    model: ScriptedModel,
    config: BeamSearchConfig,
    stream: bool = False,
    hits: Callable[[Beam], bool] | None = None,
) -> tuple[BeamSearch, list[Delta]]:
    """The search, ended, and its deltas."""
    search = BeamSearch(config, hits)

    async def run() -> list[Delta]:
        next_tokens = partial(model.next_tokens, config=config)
        texts = [Letters() for _ in range(config.n)]
        return [delta async for delta in beam_search(search, next_tokens, texts, stream)]

    return search, asyncio.run(run())


def results(search: BeamSearch) -> list[tuple[list[int], float]]:
    return [(beam.token_ids(), search.score(beam)) for beam in search.finished[: search.config.n]]


def some_config(seed: int, width: int) -> BeamSearchConfig:
    chooser = random.Random(seed)
    return BeamSearchConfig(
        num_beams=width,
        n=chooser.randint(1, width),
        max_tokens=chooser.randint(1, 24),
        min_tokens=chooser.choice((0, 0, 1)),
        length_penalty=chooser.choice(LENGTH_PENALTIES),
        early_stopping=chooser.choice(EARLY_STOPPINGS),
        stop_token_ids=frozenset({EOS, chooser.choice((EOS, 1))}),
    )


@pytest.mark.parametrize("early_stopping", EARLY_STOPPINGS)
@pytest.mark.parametrize("length_penalty", LENGTH_PENALTIES)
@pytest.mark.parametrize(("vocabulary", "max_tokens"), [(3, 6), (4, 4), (6, 3), (2, 8)])
def test_a_wide_search_finds_what_brute_force_finds(
    vocabulary: int, max_tokens: int, length_penalty: float, early_stopping: EarlyStopping
) -> None:
    for seed in range(8):
        model = ScriptedModel(seed, vocabulary)
        config = BeamSearchConfig(
            num_beams=vocabulary**max_tokens, n=5, max_tokens=max_tokens, length_penalty=length_penalty,
            early_stopping=early_stopping, stop_token_ids=frozenset({EOS}),
        )  # fmt: skip
        found = results(collect(model, config)[0])
        best = model.best(5, max_tokens, length_penalty)
        assert [tokens for tokens, _ in found] == [tokens for tokens, _ in best]
        assert [score for _, score in found] == pytest.approx([score for _, score in best])


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("early_stopping", EARLY_STOPPINGS)
@pytest.mark.parametrize("length_penalty", LENGTH_PENALTIES)
def test_results_are_those_of_transformers(
    width: int, length_penalty: float, early_stopping: EarlyStopping
) -> None:
    from tests.support.transformers_beams import scripted_beams

    for seed in range(3):
        model = ScriptedModel(seed, 40, evenness=1 + seed / 2)
        config = BeamSearchConfig(
            num_beams=width, n=width, max_tokens=12 + 8 * seed, min_tokens=(0, 0, 3)[seed],
            length_penalty=length_penalty, early_stopping=early_stopping,
            stop_token_ids=frozenset({EOS} if seed < 2 else {EOS, 1}),
        )  # fmt: skip
        found = results(collect(model, config)[0])
        theirs = scripted_beams(model, config)
        assert [tokens for tokens, _ in found] == [tokens for tokens, _ in theirs]
        if width > 1:
            assert [score for _, score in found] == pytest.approx(
                [score for _, score in theirs], rel=1e-5
            )


@pytest.mark.parametrize("penalty", [1.1, 1.5, 3.0])
def test_penalties_are_those_of_transformers(penalty: float) -> None:
    from tests.support.transformers_beams import scripted_beams

    for seed in range(4):
        model = ScriptedModel(seed, 40, evenness=1.5)
        config = BeamSearchConfig(
            num_beams=4, n=4, max_tokens=20, stop_token_ids=frozenset({EOS}), repetition_penalty=penalty,
            prompt_ids=frozenset({7, 8}), logit_bias={3: -2.0, 5: -100.0} if seed % 2 else {},
        )  # fmt: skip
        found = results(collect(model, config)[0])
        theirs = scripted_beams(model, config)
        assert [tokens for tokens, _ in found] == [tokens for tokens, _ in theirs]
        assert [score for _, score in found] == pytest.approx(
            [score for _, score in theirs], abs=1e-4
        )


@pytest.mark.parametrize("width", [1, 2, 4, 7])
@pytest.mark.parametrize("seed", range(40))
def test_a_stream_joins_to_the_plain_reply(seed: int, width: int) -> None:
    model, config = ScriptedModel(seed, 26, evenness=0.4), some_config(seed, width)
    _, plain = collect(model, config)
    stream = collect(model, config, stream=True)[1]
    assert [delta.index for delta in plain] == list(range(config.n))
    for whole in plain:
        pieces = [delta for delta in stream if delta.index == whole.index]
        assert "".join(piece.text for piece in pieces) == whole.text
        assert [token_id for piece in pieces for token_id in piece.token_ids] == whole.token_ids
        assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [
            whole.finish_reason
        ]


def test_what_beams_share_goes_out_before_the_end() -> None:
    """Tokens that are nearly certain are sent as soon as beams that took others have lost."""
    model = ScriptedModel(3, 26, evenness=0.25)
    config = BeamSearchConfig(num_beams=4, n=1, max_tokens=40)
    _, stream = collect(model, config, stream=True)
    assert len([delta for delta in stream if delta.text]) > 2
    assert len(stream[-1].text) < 30


def test_a_search_ends_when_no_live_beam_can_win() -> None:
    """Only the best is asked for, and it is so likely that no other could reach it in whatever is left."""

    class Certain(ScriptedModel):
        def _logprobs(self, tokens: tuple[int, ...]) -> list[float]:
            return (
                [-0.0001, -9.5, -10.0, -10.5] if len(tokens) == 2 else [-9.5, -0.0001, -10.0, -10.5]
            )

    config = BeamSearchConfig(
        num_beams=2, n=1, max_tokens=50, early_stopping="never", stop_token_ids=frozenset({EOS})
    )
    search, (delta,) = collect(Certain(0, 4), config)
    assert delta.token_ids == [1, 1, EOS]
    assert search.live[0].length == 3


def test_a_search_does_not_run_out_its_limit() -> None:
    config = BeamSearchConfig(num_beams=4, n=4, max_tokens=10_000, stop_token_ids=frozenset({EOS}))
    search, deltas = collect(ScriptedModel(1, 20), config)
    assert max(len(delta.token_ids) for delta in deltas) <= search.live[0].length < 200


def test_a_stop_string_ends_a_beam() -> None:
    model = ScriptedModel(5, 26, evenness=0.5)
    config = BeamSearchConfig(
        num_beams=4, n=4, max_tokens=30, early_stopping=True, stop_token_ids=frozenset({EOS})
    )
    (whole, *_) = collect(model, config)[1]
    stop = whole.token_ids[:2]

    def hits(beam: Beam) -> bool:
        return beam.token_ids()[-2:] == stop

    search, deltas = collect(model, config, hits=hits)
    assert (stop, "stop") in [(delta.token_ids, delta.finish_reason) for delta in deltas]
    for beam in search.finished:
        ids = beam.token_ids()
        assert not any(ids[at : at + 2] == stop for at in range(len(ids) - 2))


def test_log_probabilities_are_the_models_own() -> None:
    model = ScriptedModel(2, 26)
    config = BeamSearchConfig(num_beams=3, n=2, max_tokens=9, repetition_penalty=1.5, logprobs=5)
    for delta in collect(model, config)[1]:
        assert delta.logprobs is not None
        assert [token.token_id for token in delta.logprobs] == delta.token_ids
        for at, token in enumerate(delta.logprobs):
            assert token.logprob == model.logprobs(tuple(delta.token_ids[:at]))[token.token_id]
            assert list(token.top) == model.likeliest(delta.token_ids[:at], 5)
    assert collect(model, BeamSearchConfig(num_beams=3, n=2, max_tokens=9))[1][0].logprobs is None


def test_looking_for_stable_prefixes_costs_little() -> None:
    """Beams that part early and live long: what they share is looked for seldom, so a stream costs about the same."""
    model = ScriptedModel(1, 60, evenness=30.0)
    config = BeamSearchConfig(num_beams=8, n=8, max_tokens=400)
    collect(model, config)  # makes the model's numbers

    def cost(stream: bool) -> float:
        began = time.process_time()
        collect(model, config, stream=stream)
        return time.process_time() - began

    assert min(cost(stream=True) / cost(stream=False) for _ in range(5)) < 2


@pytest.mark.parametrize("width", [2, 5])
def test_stop_strings_look_at_all_that_transformers_looks_at(width: int) -> None:
    """Many likely tokens end a beam, and live ones come from further down, as with transformers' stopping criteria."""
    from tests.support.transformers_beams import scripted_beams

    endings = {token_id for token_id in range(40) if token_id % 3 == 0}
    for seed in range(6):
        model = ScriptedModel(seed, 40, evenness=2.0)
        config = BeamSearchConfig(num_beams=width, n=width, max_tokens=12, has_stop_strings=True)
        search, _ = collect(model, config, hits=lambda beam: beam.token.token_id in endings)
        theirs = scripted_beams(model, config, endings)
        assert [tokens for tokens, _ in results(search)] == [tokens for tokens, _ in theirs]


class GreedyModel:
    """Greedy generations of a made-up model, counted."""

    def __init__(self, model: ScriptedModel, length: int, pause: float = 0.0) -> None:
        self.model, self.length, self.pause = model, length, pause
        self.begun = self.open = 0

    async def generate(self, token_ids: list[int], callback: TokenCallback) -> None:
        self.begun += 1
        self.open += 1
        try:
            async for step in self.model.run(token_ids, self.length, self.pause):
                callback(step)
        finally:
            self.open -= 1


async def with_greedy_runs(model: GreedyModel, config: BeamSearchConfig) -> list[Delta]:
    runs = GreedyRuns(model.generate)
    try:
        texts = [Letters() for _ in range(config.n)]
        return [
            delta async for delta in beam_search(BeamSearch(config), runs.next_tokens, texts, False)
        ]
    finally:
        await runs.close()
        assert model.open == 0


@pytest.mark.parametrize("length", [1, 3, 100])
@pytest.mark.parametrize("width", [1, 4, 8])
def test_greedy_runs_change_nothing(width: int, length: int) -> None:
    for seed in range(10):
        model, config = ScriptedModel(seed, 26, evenness=0.5), some_config(seed, width)
        greedy = GreedyModel(model, length)
        assert asyncio.run(with_greedy_runs(greedy, config)) == collect(model, config)[1]


def test_beams_that_go_on_with_their_likeliest_token_need_no_new_run() -> None:
    class Endless(ScriptedModel):
        def _logprobs(self, tokens: tuple[int, ...]) -> list[float]:
            return [-99.0, *super()._logprobs(tokens)[1:]]

    for width, most in ((1, 1), (4, 120)):
        model = GreedyModel(Endless(4, 26, evenness=0.3), 60)
        config = BeamSearchConfig(num_beams=width, n=1, max_tokens=60)
        (best,) = asyncio.run(with_greedy_runs(model, config))
        assert len(best.token_ids) == 60
        assert model.begun <= most


def test_the_failure_of_a_run_is_the_searchs() -> None:
    async def generate(token_ids: list[int], callback: TokenCallback) -> None:
        callback(TokenLogprob(1, -0.1, [(1, -0.1), (2, -3.0), (3, -4.0), (4, -5.0)]))
        raise ConnectionError("the engine died")

    async def search() -> list[Delta]:
        runs = GreedyRuns(generate)
        try:
            config = BeamSearchConfig(num_beams=2, n=1, max_tokens=9)
            return [
                delta
                async for delta in beam_search(
                    BeamSearch(config), runs.next_tokens, [Letters()], False
                )
            ]
        finally:
            await runs.close()

    with pytest.raises(ConnectionError):
        asyncio.run(search())


def test_closing_ends_all_runs() -> None:
    async def leave() -> None:
        model = GreedyModel(ScriptedModel(1, 26), 1000, pause=0.001)
        runs = GreedyRuns(model.generate)
        search = BeamSearch(BeamSearchConfig(num_beams=4, n=1, max_tokens=1000))
        for _ in range(5):
            search.advance(await runs.next_tokens(search.live))
        assert model.open >= 4
        await runs.close()
        assert model.open == 0

    asyncio.run(leave())
