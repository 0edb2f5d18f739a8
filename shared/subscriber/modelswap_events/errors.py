"""Errors of the client. Pure."""

from __future__ import annotations


class Refused(Exception):
    """RabbitMQ or modelswap's API refuses us: a wrong address, user, password or token. Retrying does not help."""


class Away(Exception):
    """RabbitMQ or modelswap's API does not answer, or not as expected. Retried until it does."""
