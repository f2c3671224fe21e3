"""nginx before a server, by the block of `docs/operation.md`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.alike import KINDS, Answer, answers
from tests.support.fronts import nginx, nginx_program, servers

pytestmark = pytest.mark.skipif(nginx_program() is None, reason="nginx is not installed")

TOO_LARGE = ("body too large", "chunked body too large")


@pytest.fixture(scope="module")
def answered(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[dict[str, Answer], dict[str, Answer]]]:
    """What a server answers to each kind of request, and what comes through nginx."""
    folder: Path = tmp_path_factory.mktemp("nginx")
    with servers(1) as [server], nginx(server.url, folder) as url:
        yield answers(server.url), answers(url)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in TOO_LARGE])
def test_a_request_is_answered_as_by_the_server_itself(
    answered: tuple[dict[str, Answer], dict[str, Answer]], kind: str
) -> None:
    direct, behind = answered
    assert behind[kind] == direct[kind]


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_a_body_too_large_is_refused_by_nginx_in_its_own_words(
    answered: tuple[dict[str, Answer], dict[str, Answer]], kind: str
) -> None:
    direct, behind = answered
    assert direct[kind].status == behind[kind].status == 413
    assert behind[kind].headers["content-type"] == "text/html"
