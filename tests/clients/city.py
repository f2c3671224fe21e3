"""What structured output is asked for: objects that even a small model brings to an end."""

from typing import Literal

from pydantic import BaseModel, Field


class City(BaseModel):
    """A city and its people; each field is short."""

    name: Literal["北京", "巴黎", "杭州"]
    people: int = Field(ge=0, le=9999)
    is_capital: bool


class AnyObject(BaseModel, extra="allow"):
    """Any JSON object, which ends at once where `CLOSING` is sent."""


CLOSING = {"128": 100}
"""A `logit_bias` towards the demo model's closing brace."""
