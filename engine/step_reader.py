"""Reads what the engine's process sends, and handles each step in the callback of the event loop in which it comes.

vLLM's client (`AsyncMPClient` and `AsyncLLM`) has two tasks for this: one is woken by pyzmq, decodes a message and puts
it into a queue, which wakes the other. Each waking is a turn of the event loop, which a single stream waits for.
"""

import asyncio
import os

import zmq
from vllm.engine.async_llm_engine import AsyncLLMEngine
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.engine.core_client import AsyncMPClient, _process_utility_output
from vllm.v1.engine.exceptions import EngineDeadError

from engine.dispatch import Dispatcher
from settings import print_stderr

MAX_STEPS = 4
"""Steps that are handled in one callback. An engine that is faster than this process always has another one ready:
without a limit nothing else would get its turn."""


def can_read(llm: AsyncLLMEngine) -> bool:
    """Whether one process sends all steps, and nothing but steps and results, and nobody counts each token."""
    config = llm.vllm_config.parallel_config
    tells_faults = getattr(config, "enable_fault_tolerance", False)
    return type(llm.engine_core) is AsyncMPClient and not (llm.log_stats or tells_faults)


class StepReader:
    """Reads for an engine that has been loaded and has not been asked for anything."""

    def __init__(self, llm: AsyncLLMEngine, dispatcher: Dispatcher) -> None:
        assert isinstance(llm.engine_core, AsyncMPClient)
        self._dispatcher = dispatcher
        self._llm, self._client = llm, llm.engine_core
        self._processor, self._decoder = llm.output_processor, llm.engine_core.decoder
        # The same socket without pyzmq's futures.
        asynchronous = llm.engine_core.resources.output_socket
        self._socket: zmq.Socket[bytes] = zmq.Socket.shadow(asynchronous.underlying)
        self._aborts: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Read from now on, in the running loop; vLLM's client then starts no tasks of its own."""
        self._failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._read_until_failure())
        # By the first vLLM tells whether the engine has failed; at the end it cancels both.
        self._llm.output_handler = self._client.resources.output_queue_task = task

    async def _read_until_failure(self) -> None:
        loop = asyncio.get_running_loop()
        # A copy: at the end the socket is closed first, and another may then have the number of its descriptor.
        descriptor = os.dup(self._socket.fileno())
        failure: Exception = EngineDeadError()
        loop.add_reader(descriptor, self._read)
        try:
            self._read()
            failure = await self._failed
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            self._processor.propagate_error(self._client._format_exception(failure))

    def _read(self) -> None:
        """Read what has come: ZeroMQ's descriptor tells only once of it (zmq_getsockopt(3), ZMQ_FD)."""
        try:
            for earlier in range(MAX_STEPS):
                if self._failed.done():
                    return
                self._dispatcher.is_behind = earlier > 0
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
                self._client.resources.validate_alive(frames)
                self._take(self._decoder.decode(frames))
            asyncio.get_running_loop().call_soon(self._read)
        except zmq.Again:
            pass
        except Exception as failure:  # noqa: BLE001 - raised by all requests
            if not isinstance(failure, EngineDeadError):
                print_stderr(f"The engine's outputs cannot be read: {failure!r}")
            self._failed.set_result(failure)

    def _take(self, step: EngineCoreOutputs) -> None:
        if step.utility_output is not None:
            _process_utility_output(step.utility_output, self._client.utility_results)
            return
        made = self._processor.process_outputs(step.outputs, step.timestamp)
        if made.reqs_to_abort:
            self._abort(made.reqs_to_abort)
        if self._llm.logger_manager is not None:
            self._llm.logger_manager.record(
                step.scheduler_stats, None, engine_idx=step.engine_index
            )

    def _abort(self, request_ids: list[str]) -> None:
        abort = asyncio.create_task(self._client.abort_requests_async(request_ids))
        self._aborts.add(abort)
        abort.add_done_callback(self._aborts.discard)
