"""The promises of `modelswap demo`, and the answers of the product's API that they are checked against."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.cli.product.client import Product
from services.state.transitions import Stage
from services.state.views import ModelView, TrainingView

_READ_EVERY_SECONDS: Final = 0.05


@dataclass
class Readings:
    """The answers to repeated requests for a user's model."""

    user_id: str
    count: int = 0
    #: Each answer that differs from the one before; None is "no model yet".
    answers: list[ModelView | None] = field(default_factory=list)

    async def read(self, api: Product) -> None:
        """Ask once. An invalid answer, or none, raises."""
        answer = await api.find_model(self.user_id)
        self.count += 1
        if not self.answers or answer != self.answers[-1]:
            self.answers.append(answer)

    async def read_on(self, api: Product) -> None:
        while True:
            await self.read(api)
            await asyncio.sleep(_READ_EVERY_SECONDS)


def promises(ended: Sequence[TrainingView], readings: Sequence[Readings]) -> Iterable[tuple[str, bool]]:
    """Yield each promise about the trainings of ann, ben and cleo, and whether it was kept."""
    (ann, ben, cleo), (of_ann, of_ben, of_cleo) = ended, readings
    yield "ann had no model, and uses the one that her training made", _became(of_ann.answers, None, ann)
    reason = ben.failure.reason if ben.failure else "no reason"
    failed = ben.stage is Stage.FAILED and len(of_ben.answers) == 1 and of_ben.answers[0] is not None
    yield f"ben's training failed ({reason}), and he uses the model that he had", failed
    old = of_cleo.answers[0]
    replaced = old is not None and _became(of_cleo.answers, old, cleo)
    asked = f"asked {of_cleo.count} times meanwhile, the API named her old one until the swap, and the new one since"
    yield f"cleo uses the model that her retrain made; {asked}", replaced


def _became(answers: Sequence[ModelView | None], before: ModelView | None, training: TrainingView) -> bool:
    """Return whether the model was *before*, then the model of *training*, and nothing else."""
    match answers:
        case [first, ModelView() as last]:
            return first == before and (last.training_id, last.reference) == (training.training_id, training.reference)
    return False
