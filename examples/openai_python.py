"""The server by OpenAI's client for Python.

Start the server with `make serve`, and then, in another terminal:

    pip install openai
    python examples/openai_python.py
"""

import os

from openai import APIError, OpenAI
from openai.types.chat import ChatCompletionMessageParam

MODEL = os.environ.get("MODEL", "chinese-llama-alpaca-2")
client = OpenAI(
    base_url=os.environ.get("BASE_URL", "http://localhost:8000/v1"),
    api_key=os.environ.get("API_KEY", "none"),  # any text, unless the server has --api-key
)

# One question, one answer. Temperature 0 takes the likeliest token each time: the same answer every time.
print("== One answer")
reply = client.chat.completions.create(
    model=MODEL, messages=[{"role": "user", "content": "中国的首都是哪里？"}], temperature=0
)
print(reply.choices[0].message.content)
print("tokens:", reply.usage and reply.usage.total_tokens)

# A conversation. The server remembers nothing: all that was said is sent with each question.
print("== A conversation, piece by piece")
messages: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "你是一个乐于助人的助手。"}
]
for question in ("给我讲一些有关杭州的故事吧", "我比较喜欢西湖，可以给我讲一下西湖吗"):
    print("问：", question, "\n答： ", sep="", end="")
    messages.append({"role": "user", "content": question})
    answer = ""
    # A stream brings the answer as it is generated, some characters at a time.
    for chunk in client.chat.completions.create(model=MODEL, messages=messages, stream=True):
        piece = chunk.choices[0].delta.content or ""
        answer += piece
        print(piece, end="", flush=True)
    print()
    messages.append({"role": "assistant", "content": answer})

# What OpenAI's own API does not have goes into extra_body: here a beam search, of which two results are returned.
print("== Beam search")
reply = client.chat.completions.create(
    model=MODEL,
    messages=[{"role": "user", "content": "告诉我中国的首都在哪里"}],
    n=2,
    extra_body={"num_beams": 4},
)
for choice in reply.choices:
    print(choice.index + 1, choice.message.content)

# A request that cannot be answered is an error that says which field is at fault.
print("== An error")
try:
    client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "你好"}], temperature=9
    )
except APIError as error:
    print(error.param, "-", error.message)
