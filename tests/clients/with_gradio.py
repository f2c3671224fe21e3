"""Gradio's client for Python, of the page that an example makes."""

from gradio_client import Client


def chat(url: str, questions: list) -> list:
    """The answers as they grow, by question, in one conversation."""
    page = Client(url, verbose=False)
    return [[*page.submit(question, api_name="/answer")] for question in questions]


def stop(url: str, question: str) -> str:
    """What has come of an answer when it is stopped."""
    answer = Client(url, verbose=False).submit(question, api_name="/answer")
    begun = next(filter(None, answer))
    answer.cancel()
    return begun
