"""JSON line filters: the log parser as ``modelswap progress``, and the code that all filters share. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import NoneType

from pydantic import JsonValue

from shared.contract.errors import PermanentError
from shared.replicate.progress import read_progress


class BadLine(PermanentError):
    """A line that is not valid input of the filter."""

    code = "bad_line"


def progress_line(line: str) -> str:
    """``{"id", "logs", "input"}`` to ``{"id", "progress", "step", "total"}``, progress in percent; never raises."""
    return answer(line, _progress)


def answer(line: str, respond: Callable[[Mapping[str, JsonValue]], Mapping[str, JsonValue]]) -> str:
    """Return *respond*'s result for the JSON object in *line*, or the error, with the line's id; never raises."""
    identity = None
    try:
        document = json.loads(line)
        if not isinstance(document, dict):
            raise BadLine("not a JSON object")
        identity = document.get("id")
        answer = respond(document)
    except PermanentError as error:
        answer = {"error": error.code, "detail": str(error)}
    except (ValueError, RecursionError) as error:
        answer = {"error": BadLine.code, "detail": f"not JSON that can be read: {error}"}
    try:
        return json.dumps({"id": identity, **answer}, allow_nan=False)
    except (ValueError, RecursionError):
        # The id cannot be written: Python also parses NaN, and nests deeper when reading than when writing.
        return json.dumps({"id": None, **answer})


def _progress(document: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    logs, training_input = document.get("logs"), document.get("input")
    if not isinstance(logs, (str, list, NoneType)):
        raise BadLine("logs must be text, a list of texts or null")
    if not isinstance(training_input, (dict, NoneType)):
        raise BadLine("input must be an object or null")
    progress = read_progress(logs, training_input or {})
    if progress is None:
        return {"progress": None, "step": None, "total": None}
    return {"progress": round(100 * progress.fraction, 2), "step": progress.step, "total": progress.total}
