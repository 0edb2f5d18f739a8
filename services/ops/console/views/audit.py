"""The audit as its screen shows it: each entry with a link to what it is about. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

from services.ops.audit.views import AuditView
from services.ops.console.views.filters import LETTER_FIELDS, address
from services.ops.console.views.formats import kind

_UUID: Final = re.compile(r"[0-9a-f-]{36}", re.ASCII)
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_FIELDS: Final = "|".join(LETTER_FIELDS)
_FIELD: Final = re.compile(rf"({_FIELDS}) (.*?)(?=, (?:{_FIELDS}) |$)", re.DOTALL)


class Entry(AuditView):
    """An entry of the audit."""

    @property
    def address(self) -> str | None:
        """Where its target is shown; None: on no screen."""
        return target_address(self.target)

    @property
    def kind(self) -> str:
        return kind(self.action.rpartition(".")[2], "action")

    @property
    def words(self) -> str:
        return self.action.replace(".", " ").replace("_", " ")


def target_address(target: str) -> str | None:
    """Return the address of the page that shows *target*; None if there is none."""
    for begin, form, path in (
        ("dead letter ", _NUMBER, "/dead-letters/"),
        ("replay ", _UUID, "/replays/"),
        ("webhook endpoint ", _UUID, "/queues/webhooks/"),
        ("user ", None, "/users/"),
        ("training ", None, "/trainings/"),
    ):
        if target.startswith(begin):
            name = target.removeprefix(begin)
            return f"{path}{quote(name, safe='')}" if name and (form is None or form.fullmatch(name)) else None
    if target.startswith("dead letters with "):
        chosen = dict(_FIELD.findall(target.removeprefix("dead letters with ")))
        return address("/dead-letters", chosen) if chosen else None
    return "/queues" if target.startswith("subscription ") else None
