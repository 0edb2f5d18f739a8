"""`modelswap up --example`: a subscriber beside the services, with a subscription of its own. Edge."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from services.cli.client import Body, first_secret
from services.cli.local.stack import Environment, Plan, overridden, without_settings
from services.cli.operators.client import operators
from services.cli.problem import Problem
from services.ops.subscriptions.views import PasswordRotated, SubscriptionAdded
from shared.contract.events import ModelActivated, ModelWithdrawn
from shared.runtime.settings import ClientSettings

_MODULE: Final = "deploy.examples.generator"
#: Not the one that the subscribers' page adds.
_PATH: Final = "/v1/subscriptions/example"
_REASON: Final = "modelswap up --example"


def check_that_there_is_one() -> None:
    if find_spec("deploy") is None or find_spec(_MODULE) is None:
        raise Problem("the example is not part of this installation", then="the same command in a checkout")


async def example_environment(everything: Plan) -> Environment:
    """Add the example's subscription, or give it a new password; return the example's environment."""
    settings = overridden(everything.environment, {"OPS_URL": everything.urls["ops"]})
    body: Body = {"events": [ModelActivated.key, ModelWithdrawn.key], "reason": _REASON}
    async with operators(settings) as api:
        amqp_url = (await api.ask(SubscriptionAdded, "PUT", _PATH, body=body)).amqp_url
        if amqp_url is None:
            rotated = await api.post(PasswordRotated, f"{_PATH}/rotate-password", {"reason": _REASON})
            amqp_url = rotated.amqp_url
    return {
        **without_settings(everything.environment),
        "AMQP_URL": amqp_url,
        "API_URL": everything.urls["state"],
        "API_TOKEN": first_secret(ClientSettings.load(settings).api_tokens),
    }
