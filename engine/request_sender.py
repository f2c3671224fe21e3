"""Sends requests to the engine's process, with less to do for each than vLLM's client has.

pyzmq's asynchronous socket makes a future for each message and asks ZeroMQ for its state, though ZeroMQ takes a message
at once. And for each request vLLM asks a pool of tokenizers for the id of the end token, and the system for randomness.
"""

from collections.abc import Awaitable, Generator, Iterator, Sequence
from functools import partial
from itertools import count, repeat

import zmq
import zmq.asyncio
from vllm.engine.async_llm_engine import AsyncLLMEngine
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core_client import AsyncMPClient

NOBLOCK, MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
"""As numbers: pyzmq's flags are an `enum`, which Python code combines anew for each part that is sent."""


def can_send(llm: AsyncLLMEngine) -> bool:
    """Whether one process takes all requests."""
    return type(llm.engine_core) is AsyncMPClient


def send_at_once(llm: AsyncLLMEngine) -> None:
    """Let a loaded engine's client do less for each request that is sent."""
    llm.engine_core.input_socket = SendingSocket(llm.engine_core.input_socket)
    processor, renderer = llm.input_processor, llm.input_processor.renderer
    # The same id whenever it is asked for.
    renderer.get_eos_token_id = repeat(renderer.get_eos_token_id()).__next__
    processor.assign_request_id = partial(add_number, count())


def add_number(numbers: Iterator[int], request: EngineCoreRequest) -> None:
    """Make a request's id unique by a number where vLLM adds random characters: no other client shares the engine."""
    request.external_req_id = request.request_id
    request.request_id = f"{request.request_id}-{next(numbers)}"


class Sent:
    """Can be awaited, and is done."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


class SendingSocket:
    """Stands in for the asynchronous socket of a client that only sends."""

    def __init__(self, asynchronous: zmq.asyncio.Socket) -> None:
        self._asynchronous = asynchronous
        self._socket: zmq.Socket[bytes] = zmq.Socket.shadow(asynchronous.underlying)
        self._has_room = True

    def send_multipart(self, parts: Sequence[bytes], copy: bool) -> Awaitable[object]:
        """Send a message whole; raises zmq.ZMQError. The result is to be awaited, as the asynchronous socket's."""
        if self._has_room:
            try:
                for part in parts[:-1]:
                    self._socket.send(part, MORE, copy=copy)
                self._socket.send(parts[-1], NOBLOCK, copy=copy)
                return Sent()
            except zmq.Again:  # of the first part: ZeroMQ takes all of a message or none
                # From now on all wait, else a later message could overtake this one.
                self._has_room = False
        return self._asynchronous.send_multipart(parts, copy=copy)
