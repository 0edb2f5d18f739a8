"""Options of the simulator. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared.replicate.signature import decode_secret


def _signing(secret: str) -> str:
    if secret:
        decode_secret(secret)
    return secret


Seconds = Annotated[float, Field(gt=0)]


class Knobs(BaseModel):
    """Options of a simulator. Seconds are simulated ones unless named real."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    seed: int = 0
    #: Simulated seconds per real second.
    speed: Annotated[float, Field(gt=0)] = 1.0
    tokens: tuple[str, ...] = Field(("r8_simulator",), repr=False)
    #: Signing secret of webhooks (whsec_ and base64); empty = derived from the seed.
    secret: Annotated[str, Field(repr=False), AfterValidator(_signing)] = ""
    #: Whether a training creates its destination if it does not exist.
    auto_destinations: bool = True
    #: How long a training waits for a machine, and how long it runs.
    boot_seconds: Seconds = 10.0
    duration_seconds: Seconds = 600.0
    #: How long a prediction waits.
    prediction_boot_seconds: Seconds = 20.0
    #: Minimum real time between a training's logs webhooks, at any speed.
    log_interval_real_seconds: Annotated[float, Field(ge=0)] = 0.2
    #: Real seconds between the attempts at a terminal webhook; none = Replicate's own, divided by the speed.
    retry_delays_real_seconds: tuple[float, ...] = ()
    #: How long a receiver may take to answer, in real seconds.
    webhook_timeout_real_seconds: Seconds = 5.0
