"""A chat page by Gradio, whose answers appear as they are generated.

Start the server with `make serve`, and then, in another terminal:

    pip install gradio openai
    python examples/gradio_chat.py
"""

import os
from collections.abc import Iterator
from typing import Any

import gradio as gr
from openai import OpenAI

MODEL = os.environ.get("MODEL", "chinese-llama-alpaca-2")
client = OpenAI(
    base_url=os.environ.get("BASE_URL", "http://localhost:8000/v1"),
    api_key=os.environ.get("API_KEY", "none"),  # any text, unless the server has --api-key
)


def answer(question: str, history: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the answer so far, longer each time: Gradio shows the newest in place of the one before."""
    # Gradio's messages have more than a role and a content; the server needs these two.
    messages: Any = [{"role": each["role"], "content": each["content"]} for each in history]
    messages.append({"role": "user", "content": question})
    text = ""
    # At Gradio's stop button, or when the tab is closed, the stream is closed too, and the server stops generating.
    with client.chat.completions.create(model=MODEL, messages=messages, stream=True) as stream:
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            yield text


examples = ["中国的首都是哪里？", "给我讲一些有关杭州的故事吧"]
gr.ChatInterface(answer, title="Chinese-LLaMA-Alpaca-2", examples=examples).launch()
