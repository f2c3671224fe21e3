"""guidance's VLLMModel: text between what the program itself writes, held to a pattern, and a choice."""

import guidance
from guidance.models.experimental import VLLMModel


def ask(url: str, model: str) -> dict:
    asked = VLLMModel(model, base_url=f"{url}/v1", api_key="none", echo=False)
    with guidance.user():
        asked += "中国的首都是哪里？"
    with guidance.assistant():
        asked += guidance.gen("text", max_tokens=20)
    with guidance.user():
        asked += "有多少人？"
    with guidance.assistant():
        asked += guidance.gen("number", regex="[1-9][0-9]{2}")
    with guidance.user():
        asked += "法国的首都呢？"
    with guidance.assistant():
        asked += guidance.select(["巴黎", "柏林"], name="choice")
    return {name: asked[name] for name in ("text", "number", "choice")}
