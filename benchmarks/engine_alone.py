"""vLLM's engine without HTTP: the same loads, generated in the process of AsyncLLMEngine, whose outputs are discarded.

It shows what a server around this engine costs at least. `compare.py` starts it, and writes to its stdin a JSON list of
prompts (token ids) and then loads, one JSON object a line; for each it prints the timings as a line of JSON.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict

import uvloop
from load import Load, Timings
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.engine.async_llm_engine import AsyncLLMEngine
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser


async def ask(
    llm: AsyncLLMEngine, prompt: list[int], load: Load, request_id: str, timings: Timings
) -> None:
    kind = RequestOutputKind.DELTA if load.is_streamed else RequestOutputKind.FINAL_ONLY
    params = SamplingParams(
        temperature=0,
        max_tokens=load.tokens,
        min_tokens=load.tokens,
        output_kind=kind,
        skip_clone=True,
    )
    asked = arrived = time.perf_counter()
    tokens, has_text = 0, False
    async for output in llm.generate(tokens_input(prompt), params, request_id):
        now = time.perf_counter()
        if has_text:
            timings.gaps.append(now - arrived)
        elif not output.outputs[0].text.isspace():  # see SPACE of load.py
            timings.first_texts.append(now - asked)
            has_text = True
        tokens += len(output.outputs[0].token_ids)
        arrived = now
    assert tokens == load.tokens, tokens


async def run(llm: AsyncLLMEngine, load: Load, prompts: list[list[int]]) -> Timings:
    timings = Timings()

    async def ask_all(number: int) -> None:
        for turn in range(load.requests):
            at = number * load.requests + turn
            await ask(llm, prompts[at % len(prompts)], load, f"{time.perf_counter()}-{at}", timings)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(ask_all(number) for number in range(load.connections)))
    timings.seconds, timings.cpu = time.perf_counter() - began, time.process_time() - cpu
    return timings


async def answer(llm: AsyncLLMEngine) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    prompts = json.loads(await lines.readline())
    print("ready", flush=True)
    while line := await lines.readline():
        timings = await run(llm, Load(**json.loads(line)), prompts)
        print(json.dumps(asdict(timings)), flush=True)


def main() -> None:
    parser = FlexibleArgumentParser()
    AsyncEngineArgs.add_cli_args(parser)
    arguments = AsyncEngineArgs.from_cli_args(parser.parse_args())
    llm = AsyncLLMEngine.from_engine_args(arguments, usage_context=UsageContext.OPENAI_API_SERVER)
    uvloop.run(answer(llm))
    llm.shutdown()


if __name__ == "__main__":
    main()
