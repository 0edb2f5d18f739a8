"""
Follow the models of modelswap's users.

.. code-block:: python

    async for change in Models(amqp_url, api_url, token, subscription="generator"):
        use(change.user_id, change.model)

`Models` hands out each user's current model, then every change, only ever newer than before. `subscribe` hands out all
events as they are. `modelswap_events.testing` stands in for modelswap in the tests of your service.

*amqp_url* is what `modelswap subscriptions add NAME` printed; *api_url* and *token* are those of modelswap's API for
products. Warnings are logged as ``modelswap_events``.
"""

from modelswap_events.change import Change
from modelswap_events.errors import Refused
from modelswap_events.models import Models
from modelswap_events.subscription import Subscription, subscribe
from shared.contract.envelope import Envelope
from shared.contract.events import (
    Event,
    ExtractionFailed,
    ModelActivated,
    ModelReady,
    ModelSuperseded,
    ModelWithdrawn,
)
from shared.contract.identity import ModelRef

__all__ = [
    "Change",
    "Envelope",
    "Event",
    "ExtractionFailed",
    "ModelActivated",
    "ModelReady",
    "ModelRef",
    "ModelSuperseded",
    "ModelWithdrawn",
    "Models",
    "Refused",
    "Subscription",
    "subscribe",
]
