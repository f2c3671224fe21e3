"""What agents are asked, and the tool that they answer it with."""

QUESTION = "杭州的天气怎么样？"
SECOND_QUESTION = "那北京呢？"
called: list[str] = []
"""The cities that the tool has been called for."""


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "查询一个城市今天的天气。",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "城市的名称。"}},
            "required": ["city"],
        },
    },
}
"""As clients send it that do not make it of the function."""


def get_weather(city: str) -> str:
    """查询一个城市今天的天气。

    Args:
        city: 城市的名称。
    """
    called.append(city)
    return "晴，21 度"
