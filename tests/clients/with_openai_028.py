"""The official Python client before its version 1, which older scripts still import."""

from typing import Any

import openai


def connect(url: str) -> None:
    openai.api_base, openai.api_key = f"{url}/v1", "none"


def chat(url: str, **body: Any) -> dict:
    connect(url)
    return {
        "plain": openai.ChatCompletion.create(**body),
        "chunks": list(openai.ChatCompletion.create(**body, stream=True)),
    }


def complete(url: str, **body: Any) -> dict:
    connect(url)
    return {
        "plain": openai.Completion.create(**body),
        "chunks": list(openai.Completion.create(**body, stream=True)),
    }


def models(url: str) -> dict:
    connect(url)
    return openai.Model.list()


def fail(url: str, **body: Any) -> list:
    connect(url)
    try:
        openai.ChatCompletion.create(**body)
    except openai.error.OpenAIError as error:
        return [type(error).__name__, error.http_status, error.param, error.code]
    return []
