"""A web page of your own with a back end of your own, which passes the model's tokens on as they come.

Start the server with `make serve`, and then, in another terminal:

    pip install fastapi uvicorn openai
    python examples/web_backend.py

and open http://localhost:8080/. The browser only ever talks to this back end: the model's server and its key stay
hidden behind it, and the back end decides what may be asked.
"""

import os
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, StreamingResponse
from openai import APIError, AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel, Field

MODEL = os.environ.get("MODEL", "chinese-llama-alpaca-2")
PORT = int(os.environ.get("PORT", "8080"))
client = AsyncOpenAI(
    base_url=os.environ.get("BASE_URL", "http://localhost:8000/v1"),
    api_key=os.environ.get("API_KEY", "none"),  # any text, unless the server has --api-key
)
app = FastAPI()

PAGE = """<!doctype html>
<html lang="zh">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>问答</title>
<style>
  body { max-width: 40rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.6 system-ui, sans-serif; }
  textarea { width: 100%; box-sizing: border-box; font: inherit; }
  output { display: block; white-space: pre-wrap; margin-top: 1rem; }
</style>
<form>
  <textarea name="question" rows="3" required>给我讲一些有关杭州的故事吧</textarea>
  <button>发送</button> <button type="button" id="stop">停止</button>
</form>
<output></output>
<script>
  const form = document.querySelector("form");
  const output = document.querySelector("output");
  let asked = new AbortController();

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    asked.abort(); // the answer before, if it is still coming
    asked = new AbortController();
    const { signal } = asked;
    output.textContent = "";
    try {
      const reply = await fetch("ask", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ question: form.elements.question.value }),
        signal,
      });
      if (!reply.ok) throw new Error(`HTTP ${reply.status}`);
      // Bytes may be cut within a character: the decoder waits for its end.
      const pieces = reply.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let piece = await pieces.read(); !piece.done; piece = await pieces.read()) {
        // textContent, never innerHTML: what a model says is text, not a page.
        output.textContent += piece.value;
      }
    } catch (failure) {
      if (!signal.aborted) output.textContent += ` [${failure.message}]`;
    }
  });
  document.querySelector("#stop").addEventListener("click", () => asked.abort());
</script>
</html>
"""


class Question(BaseModel):
    """What the page sends. A limit of its own keeps visitors from sending books."""

    question: str = Field(min_length=1, max_length=2000)


@app.get("/")
async def page() -> HTMLResponse:
    return HTMLResponse(PAGE)


@app.post("/ask")
async def ask(body: Question) -> StreamingResponse:
    return StreamingResponse(answer(body.question), media_type="text/plain; charset=utf-8")


async def answer(question: str) -> AsyncIterator[str]:
    """Yield the answer piece by piece.

    When the visitor leaves, FastAPI cancels this function, wherever it waits. `async with` then closes the connection
    to the model's server, which stops generating: nobody pays for tokens that nobody reads.
    """
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": question}]
    try:
        async with await client.chat.completions.create(
            model=MODEL, messages=messages, stream=True
        ) as stream:
            async for chunk in stream:
                yield chunk.choices[0].delta.content or ""
    except APIError as failure:  # the page has its status already, so it gets the reason as text
        yield f"[{failure.message}]"


if __name__ == "__main__":
    uvicorn.run(app, port=PORT)
