"""The real network: RabbitMQ and HTTP. Edge."""

from __future__ import annotations

from typing import Final

from modelswap_events.api import HttpApi
from modelswap_events.broker import RabbitBroker
from modelswap_events.ports import Api, Broker, Network


class RealNetwork:
    """RabbitMQ over AMQP, and modelswap's API over HTTP."""

    def broker(self, amqp_url: str, subscription: str) -> Broker:
        return RabbitBroker(amqp_url, subscription)

    def api(self, api_url: str, token: str) -> Api:
        return HttpApi(api_url, token)


NETWORK: Final[Network] = RealNetwork()
