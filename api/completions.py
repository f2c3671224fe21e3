"""The reply of `/v1/completions`: one body, or the chunks of a stream.

With `echo` each choice begins with its prompt.
"""

from collections.abc import Sequence

from api.logprobs import LogprobAligner, Token, to_completion_logprobs
from api.replies import Choice, ChunkFormat, envelope, fold, logprob_aligners, stream
from generation import Delta, Generation, Source
from prompts.encoder import Encoder
from protocol import Completion, CompletionChoice, CompletionRequest


async def completion(
    generation: Generation, request: CompletionRequest, encoder: Encoder
) -> Completion:
    """The whole reply."""
    aligners = logprob_aligners(generation, encoder)
    choices = await _echoes(generation, request, encoder, aligners)
    usage = await fold(generation, aligners, choices)
    whole = [
        _to_choice(index, choice, choice.tokens if aligners else None)
        for index, choice in enumerate(choices)
    ]
    if request.return_token_ids:
        prompts = _prompt_ids(generation)
        for reply, choice in zip(whole, choices, strict=True):
            reply.prompt_token_ids, reply.token_ids = prompts[reply.index], choice.token_ids
    return Completion(**envelope(generation), choices=whole, usage=usage)


def completion_chunks(
    generation: Generation, request: CompletionRequest, encoder: Encoder
) -> Source[bytes]:
    """The chunks of a stream."""
    aligners = logprob_aligners(generation, encoder)

    def chunk(delta: Delta, tokens: Sequence[Token]) -> Completion:
        choice = _to_choice(delta.index, delta, tokens or None)
        return Completion(**envelope(generation), choices=[choice])

    async def first() -> list[Completion]:
        if not request.echo:
            return []
        echoes = await _echoes(generation, request, encoder, aligners)
        return [
            chunk(Delta(index, echo.text, ()), echo.tokens) for index, echo in enumerate(echoes)
        ]

    prompts = _prompt_ids(generation) if request.return_token_ids else {}
    chunks = ChunkFormat(first, chunk, joins_last=True, prompts=prompts)
    return stream(generation, request, aligners, chunks)


async def _echoes(
    generation: Generation,
    request: CompletionRequest,
    encoder: Encoder,
    aligners: Sequence[LogprobAligner],
) -> list[Choice]:
    """All choices before their first delta: empty, or with `echo` the prompt.

    The prompt is the client's own text; where log-probabilities are asked for, it is the whole text that they are of,
    template included.
    """
    if not request.echo:
        return [Choice() for _ in range(generation.choices)]
    echoes = [Choice(prompt.text) for prompt in generation.prompts]
    if aligners:
        scores = await generation.scores()
        for echo, sent, score in zip(echoes, request.prompt, scores, strict=True):
            aligner = LogprobAligner(encoder, hides_control=isinstance(sent, str))
            echo.tokens = aligner.align_prompt(score)
            echo.text = b"".join(token.spelling for token in echo.tokens).decode(errors="replace")
    n = generation.decoding.n
    choices = [Choice(echo.text, [*echo.tokens]) for echo in echoes for _ in range(n)]
    for aligner, choice in zip(aligners, choices, strict=False):
        aligner.offset = len(choice.text)
    return choices


def _prompt_ids(generation: Generation) -> dict[int, list[int]]:
    """The token ids of the prompt of each choice, by the choice's index."""
    n = generation.decoding.n
    return {index: generation.prompts[index // n].ids for index in range(generation.choices)}


def _to_choice(
    index: int, said: Choice | Delta, tokens: Sequence[Token] | None
) -> CompletionChoice:
    return CompletionChoice(
        index=index,
        text=said.text,
        logprobs=None if tokens is None else to_completion_logprobs(tokens),
        finish_reason=said.finish_reason,
        stop_reason=said.stop_reason,
    )
