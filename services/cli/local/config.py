"""`modelswap config show`: every setting, its value and source, without secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Final

from pydantic import SecretStr, create_model

from services.cli.choices import Format
from services.cli.output import tell
from services.cli.table import Column, print_list
from shared.contract.brokers import split_addresses
from shared.runtime.settings import CLIENTS, PROCESSES, all_settings, unknown
from shared.runtime.settings_base import PREFIX, Settings, SettingsError

_MASK: Final = "********"
_URL: Final = re.compile(r"(\w+://)(.*@)?([^?#]*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """The current value of one setting."""

    name: str
    value: object
    #: default, environment, nowhere, or the file that holds it
    source: str
    processes: tuple[str, ...]
    problem: str | None


def entries(environment: Mapping[str, str]) -> list[Entry]:
    return [_entry(name, owner, environment) for name, owner in sorted(all_settings().items())]


def _entry(name: str, owner: type[Settings], environment: Mapping[str, str]) -> Entry:
    field = name.removeprefix(PREFIX).lower()
    given = {key: environment[key] for key in (name, f"{name}_FILE") if environment.get(key)}
    value, problem = None, None
    try:
        value = _shown(getattr(_alone(field, owner).load(given), field))
    except SettingsError as error:
        # If a file cannot be read, a further mistake says that the setting is missing.
        problem = error.mistakes[0].said.removeprefix(name).lstrip(": ")
    return Entry(name, value, _source(name, given, problem), _processes(field), problem)


@cache
def _alone(field: str, owner: type[Settings]) -> type[Settings]:
    """Return settings with one *field* of *owner*; to make them takes a hundred times as long as to load them."""
    definition: Any = (owner.model_fields[field].annotation, owner.model_fields[field])
    return create_model("Alone", __base__=Settings, **{field: definition})


def _source(name: str, given: Mapping[str, str], problem: str | None) -> str:
    if name in given:
        return "environment"
    if given:
        return f"file {given[f'{name}_FILE']}"
    return "nowhere" if problem else "default"


def _processes(field: str) -> tuple[str, ...]:
    if field in Settings.model_fields:
        return ("all",)
    owners: list[tuple[str, type[Settings]]] = [*PROCESSES.items(), *(("cli", client) for client in CLIENTS)]
    return tuple(dict.fromkeys(process for process, owner in owners if field in owner.model_fields))


def _shown(value: object) -> object:
    match value:
        case SecretStr():
            return ",".join(map(_masked, split_addresses(value.get_secret_value())))
        case tuple():
            return [_shown(each) for each in value]
        case timedelta():
            return f"{value.total_seconds():g}s"
        case bool() | int() | float() | None:
            return value
    return str(value)


def _masked(secret: str) -> str:
    """Mask a secret: an address keeps its host and path, anything else is hidden."""
    match = _URL.match(secret)
    if match is None:
        return _MASK
    return f"{match[1]}{_MASK}@{match[3]}" if match[2] else f"{match[1]}{match[3]}"


def show(environment: Mapping[str, str], output: Format) -> None:
    """Print every setting; warn of names that no process reads on standard error."""
    found, unread = entries(environment), unknown(environment)
    data = {"settings": [asdict(entry) for entry in found], "unknown": unread}
    print_list(found, SETTINGS, output, empty="", data=data)
    for name in unread:
        tell(f"warning: no process reads {name}; a typing mistake?")


def _value(entry: Entry) -> object:
    return entry.problem or (",".join(map(str, entry.value)) if isinstance(entry.value, list) else entry.value)


SETTINGS: Final[Sequence[Column[Entry]]] = (
    Column("setting", lambda each: each.name),
    Column("value", _value, is_prose=True),
    Column("from", lambda each: each.source, 1),
    Column("used by", lambda each: " ".join(each.processes), 2),
)
