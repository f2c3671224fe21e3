"""What pytest gives the tests of clients: their programs against the real server."""

import pytest

from tests.support.client_programs import Ask, asking
from tests.support.server_process import Server


@pytest.fixture
def ask(server: Server) -> Ask:
    return asking(server.url)
