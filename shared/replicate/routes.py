"""Routes of Replicate's API that we ask, and the answers that each of them may give. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

NO_CONNECTION: Final = "no_connection"
NO_ANSWER: Final = "no_answer"
#: Statuses of HTTP that Replicate, or a server before it, answers with; or that there was no answer.
STATUSES: Final = (
    *("200", "201", "400", "401", "402", "403", "404", "409", "422", "429", "500", "502", "503", "504"),
    NO_CONNECTION,
    NO_ANSWER,
)


class Route(StrEnum):
    """A method and a path, which has a name in braces for each id."""

    GET_TRAINING = "GET /v1/trainings/{id}"
    LIST_TRAININGS = "GET /v1/trainings"
    CREATE_TRAINING = "POST /v1/models/{owner}/{name}/versions/{version}/trainings"
    CANCEL_TRAINING = "POST /v1/trainings/{id}/cancel"
    GET_VERSION = "GET /v1/models/{owner}/{name}/versions/{version}"
    LIST_VERSIONS = "GET /v1/models/{owner}/{name}/versions"
    CREATE_PREDICTION = "POST /v1/predictions"
    GET_PREDICTION = "GET /v1/predictions/{id}"
    LIST_PREDICTIONS = "GET /v1/predictions"
    #: A file of an output, whose address Replicate chooses.
    GET_OUTPUT = "GET output"
    GET_WEBHOOK_SECRET = "GET /v1/webhooks/default/secret"  # noqa: S105 (a path)
    GET_ACCOUNT = "GET /v1/account"
