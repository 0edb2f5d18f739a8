"""
The RabbitMQ users of the processes: made by `modelswap topology apply`, compared by `topology diff`. Edge.

    modelswap-receiver, modelswap-extractor, modelswap-state, modelswap-ops, modelswap-notifier

Each may read its own queues and publish its own events, retries and dead letters (`shared.contract.rights`), and may
declare nothing. Without these users all processes share the user of MODELSWAP_AMQP_URL, which may do everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.cli.problem import Problem
from shared.contract.rights import USERS, rights_of
from shared.contract.topology import Topology
from shared.runtime.management import Management
from shared.runtime.settings_base import read_named

#: The variable with the password of each process, in the environment (also as a file) or in a kept state.
PASSWORDS: Final = {process: f"RABBITMQ_{process.upper()}_PASSWORD" for process in USERS}


def find_passwords(given: Mapping[str, str]) -> dict[str, str]:
    """Pick the password of each process from *given*; none if none is given."""
    found = read_named(given, PASSWORDS.values())
    missing = [name for name in PASSWORDS.values() if not found.get(name)]
    if len(missing) == len(PASSWORDS):
        return {}
    if missing:
        then = "set all of them, or none, for one user for all processes"
        raise Problem(f"{', '.join(missing)}: missing, but other processes have a password", then=then)
    return {process: found[name] for process, name in PASSWORDS.items()}


async def make_users(management: Management, passwords: Mapping[str, str], plan: Topology) -> None:
    for process, password in passwords.items():
        await management.put_user(USERS[process], password)
        await management.set_rights(USERS[process], rights_of(process, plan))


async def differences(management: Management, plan: Topology) -> list[str]:
    """Return a line for each user that is missing or has other rights; none if all are missing."""
    found = {process: await management.rights_of(user) for process, user in USERS.items()}
    if not any(found.values()):
        return []
    return [
        f"user {USERS[process]}: {'missing' if rights is None else 'has other rights'}"
        for process, rights in found.items()
        if rights != rights_of(process, plan)
    ]
