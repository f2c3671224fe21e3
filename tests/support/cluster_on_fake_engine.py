"""The command of several replicas with a seeded engine in each: `python -m tests.support.cluster_on_fake_engine FLAGS`.

A request with the seed DYING lets its replica's engine die. A model that is served as `broken` cannot be loaded.
"""

import sys
from dataclasses import dataclass

from cluster import Replica
from generation import Decoding, Deltas, Engine, Prompt
from settings import Settings, StartError
from tests.support.fake_engine import FakeEngine
from tests.support.seeded_engine import DYING, SEEDS


@dataclass
class MortalEngine(FakeEngine):
    """A seeded engine that can die, or not start."""

    name: str = ""

    async def start(self) -> None:
        if self.name == "broken":
            raise StartError("vLLM cannot start the model: it is broken.")

    async def _speak(self, prompt: Prompt, decoding: Decoding) -> Deltas:
        async for delta in super()._speak(prompt, decoding):
            yield delta
            self.is_dead |= decoding.seed == DYING


class FakeReplica(Replica):
    """A replica with a mortal engine."""

    def make_engine(self, settings: Settings) -> Engine:
        return MortalEngine(by_seed=SEEDS, name=settings.model_names[0])


if __name__ == "__main__":
    # By these names, Ray's processes can import what they are told to run.
    from cluster import main
    from tests.support.cluster_on_fake_engine import FakeReplica as Named

    sys.exit(main(Named))
