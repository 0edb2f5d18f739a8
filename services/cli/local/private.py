"""Private servers of `modelswap up --embedded` and `modelswap demo`, and how each process logs in to them. Edge."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from services.cli.local import roles, servers, users
from services.cli.local.stack import Environment, Logins, completed, overridden
from services.cli.local.supervisor import Server
from services.cli.problem import Problem
from shared.contract.rights import USERS
from shared.runtime.addresses import with_login
from shared.runtime.private_files import write_private

Say = Callable[[str], object]

_FILE: Final = "secrets.json"
#: Settings, without prefix.
_SECRETS: Final = ("API_TOKENS", "REF_SECRETS", "OPS_TOKENS", "WEBHOOK_MASTER_SECRETS")
#: The names of the passwords of all logins to private servers.
_PASSWORDS: Final = (*roles.PASSWORDS.values(), *users.PASSWORDS.values())


@contextmanager
def private_servers(
    environment: Environment, state: Path | None, say: Say, *, nodes: int = 1
) -> Iterator[tuple[Environment, Logins, Sequence[Server]]]:
    """
    Run a private RabbitMQ, on so many *nodes*, and a private Postgres.

    Yields *environment* with their addresses (of the database's owner and of RabbitMQ's administrator) and with
    generated secrets for missing ones; the settings with which each process logs in; and the servers.
    """
    try:
        from deploy.local import LocalServersError, Unavailable, local_servers  # noqa: PLC0415 (only the extra "local" has it)
    except ModuleNotFoundError as error:
        raise Problem(
            "private servers are not part of this installation",
            then="pip install both wheels (make wheels; dist/modelswap-*.whl dist/modelswap_local-*.whl), a checkout, "
            "or MODELSWAP_AMQP_URL and MODELSWAP_DATABASE_URL",
        ) from error
    _check_version_of(state)
    try:
        with local_servers(nodes=nodes, state=state, say=say) as private:
            made = keep_secrets(state)
            passwords = roles.find_passwords(made)
            asyncio.run(roles.make_roles(private.database_url, passwords))
            urls = {
                "AMQP_URL": private.amqp_url,
                "MANAGEMENT_URL": private.management_url,
                "DATABASE_URL": roles.login_url(private.database_url, "owner", passwords["owner"]),
            }
            settings = {name: text for name, text in made.items() if name not in _PASSWORDS}
            if nodes > 1:
                settings["QUEUE_REPLICAS"] = str(nodes)
            ready = completed(overridden(environment, urls), settings)
            # With the exchanges, without which RabbitMQ takes no rights of routing keys.
            asyncio.run(servers.declare_topology({**ready, **{name: made[name] for name in users.PASSWORDS.values()}}))
            logins = _logins(made, private.amqp_url, private.database_url, private.management_url)
            yield ready, logins, private.all
    except LocalServersError as error:
        if not isinstance(error, Unavailable):
            raise Problem(str(error), then="the same command again, when that is done") from error
        then = "docker compose up, or set MODELSWAP_AMQP_URL and MODELSWAP_DATABASE_URL"
        raise Problem(str(error), then=then) from error


def _logins(made: Mapping[str, str], amqp_url: str, database_url: str, management_url: str) -> Logins:
    """Return the settings with which each process logs in to private servers, with the passwords in *made*."""
    logins = {
        process: {"AMQP_URL": with_login(amqp_url, USERS[process], password), "DECLARE_TOPOLOGY": "false"}
        for process, password in users.find_passwords(made).items()
    }
    for process, password in roles.find_passwords(made).items():
        if process in logins:
            logins[process]["DATABASE_URL"] = roles.login_url(database_url, process, password)
    logins["ops"]["MANAGEMENT_URL"] = management_url
    return logins


def _check_version_of(state: Path | None) -> None:
    """Refuse a *state* whose database belongs to the superuser: its ownership cannot be changed."""
    kept = _kept(state)
    if kept and not set(roles.PASSWORDS.values()) <= kept.keys():
        raise Problem(
            f"{state} was made by an earlier modelswap, whose services were superusers of its database",
            then=f"rm -r {shlex.quote(str(state))}, if you need nothing in it, or another folder for --state",
        )


def keep_secrets(state: Path | None) -> dict[str, str]:
    """Return the secrets of a private stack: those kept in *state*, and new ones for the missing."""
    kept = _kept(state)
    signing = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    fresh = {name: secrets.token_hex(24) for name in (*_SECRETS, *_PASSWORDS)}
    made = fresh | {"SIMULATOR_WEBHOOK_SECRET": signing} | kept
    if state is not None and made != kept:
        write_private(state / _FILE, json.dumps(made))
    return made


def _kept(state: Path | None) -> dict[str, str]:
    file = state and state / _FILE
    if not file or not file.exists():
        return {}
    try:
        kept: dict[str, str] = TypeAdapter(dict[str, str]).validate_json(file.read_bytes())
    except ValidationError as error:
        then = f"{file} from a backup, or another folder for --state"
        raise Problem(f"{file}, the secrets of all that is stored there, cannot be read", then=then) from error
    return kept
