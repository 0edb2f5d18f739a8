"""
`modelswap db roles`: create the database and its roles, or update them. Edge.

    modelswap_owner        owns the database and applies the migrations; nothing else uses it
    modelswap_state_login  login of services.state; has the rights of modelswap_state
    modelswap_state        cannot log in; the migrations grant its rights
    modelswap_ops_login, modelswap_ops  the same for services.ops; and modelswap_notifier_login, modelswap_notifier

In Python and not a script of psql (2026-11): docker-compose.yml, `modelswap up --embedded` and the tests all use it;
psql is not everywhere; and a database of an earlier version gets the rights of this one at the next start.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from services.cli.local.database import connected
from services.cli.problem import Problem
from shared.runtime.settings_base import read_named

DATABASE: Final = "modelswap"
#: The variable with the password of each login, in the environment (also as a file) or in a kept state.
PASSWORDS: Final = {
    "owner": "POSTGRES_OWNER_PASSWORD",
    "state": "POSTGRES_STATE_PASSWORD",
    "ops": "POSTGRES_OPS_PASSWORD",
    "notifier": "POSTGRES_NOTIFIER_PASSWORD",
}
LOGINS: Final = {
    "owner": "modelswap_owner",
    "state": "modelswap_state_login",
    "ops": "modelswap_ops_login",
    "notifier": "modelswap_notifier_login",
}
_RIGHTS: Final = {"state": "modelswap_state", "ops": "modelswap_ops", "notifier": "modelswap_notifier"}
_SUPERUSER: Final = "use a superuser's login in MODELSWAP_DATABASE_URL"
#: The default of Postgres.
ITERATIONS: Final = 4096
_SALT_BYTES: Final = 16


def find_passwords(given: Mapping[str, str]) -> dict[str, str]:
    found = read_named(given, PASSWORDS.values())
    wrong = [name for name in PASSWORDS.values() if not found.get(name) or not found[name].isascii()]
    if wrong:
        raise Problem(f"{', '.join(wrong)}: must be set, in ASCII", then="make env, which writes random ones to .env")
    return {login: found[name] for login, name in PASSWORDS.items()}


def login_url(url: str, login: str, password: str, *, database: str = DATABASE) -> str:
    """Return *url* for *login* ("owner", "state", "ops" or "notifier"), without the user that it names."""
    address = urlsplit(url)
    servers = address.netloc.rpartition("@")[2]
    netloc = f"{LOGINS[login]}:{quote(password, safe='')}@{servers}"
    return address._replace(netloc=netloc, path=f"/{database}").geturl()


async def make_roles(
    url: str, passwords: Mapping[str, str], *, database: str = DATABASE, iterations: int = ITERATIONS
) -> None:
    """
    Create *database* and its roles as the superuser of *url*, or update them; set the *passwords* of the logins.

    *iterations* is how often a password is hashed, by each client at each login.
    """
    async with connected(url, name="modelswap db roles", then=_SUPERUSER) as connection:
        # Held until the connection is closed: two at once would conflict in the server's catalog.
        await connection.execute("SELECT pg_advisory_lock(hashtextextended('modelswap db roles', 0))")
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", database):
            await connection.execute(f"CREATE DATABASE {database}")
        async with connection.transaction():
            for statement in _statements(passwords, database, iterations):
                await connection.execute(statement)


def _statements(passwords: Mapping[str, str], database: str, iterations: int) -> Iterator[str]:
    for role in (*_RIGHTS.values(), *LOGINS.values()):
        yield f"DO $$ BEGIN CREATE ROLE {role}; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    for login, role in LOGINS.items():
        yield f"ALTER ROLE {role} LOGIN PASSWORD '{password_hash(passwords[login], iterations)}'"
    for login, right in _RIGHTS.items():
        yield f"GRANT {right} TO {LOGINS[login]}"
    yield f"ALTER DATABASE {database} OWNER TO {LOGINS['owner']}"
    # By default every role may connect to every database, and make temporary tables there.
    yield f"REVOKE ALL ON DATABASE {database}, postgres, template1 FROM PUBLIC"
    yield f"GRANT CONNECT ON DATABASE {database} TO {', '.join(LOGINS[login] for login in _RIGHTS)}"


def password_hash(password: str, iterations: int) -> str:
    """Return the hash that Postgres stores for *password* (RFC 5803), because statements may be logged."""
    salt = os.urandom(_SALT_BYTES)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    told, stored_key, server_key = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${iterations}:{told}${stored_key}:{server_key}"
