"""TLS with client certificates to RabbitMQ and Postgres, with real certificates: the right ones work, others do not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from deploy.local.binaries import get_postgres, get_rabbitmq
from deploy.local.errors import Unavailable
from deploy.local.postgres import Postgres
from deploy.local.process import nobody
from deploy.local.rabbitmq import PortMapper, RabbitMQ
from deploy.local.state import temporary_state
from shared.contract.errors import DependencyDown
from shared.runtime.broker.link import Link
from shared.runtime.broker.link_errors import LINK_ERRORS, say
from shared.runtime.ports import free_ports
from shared.runtime.postgres import connect
from tests.certificates import Authority, Signed
from tests.erlang import evaluate

pytestmark = pytest.mark.own_servers

_LISTENER: Final = """\
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {authority}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""
_ONLY_WITH_CERTIFICATE: Final = "hostssl all all all scram-sha-256 clientcert=verify-ca\n"


@dataclass(frozen=True)
class Certificates:
    """Those of one test: the server's is for `localhost` alone."""

    ours: Authority
    theirs: Authority
    server: Signed
    expired: Signed
    client: Signed
    stranger: Signed


@pytest.fixture
def certificates(walkable_folder: Path) -> Certificates:
    ours, theirs = Authority(walkable_folder, "ours"), Authority(walkable_folder, "theirs")
    made = Certificates(
        ours,
        theirs,
        server=ours.sign("server", hosts=["localhost"]),
        expired=ours.sign("expired", hosts=["localhost"], days=-1),
        client=ours.sign("modelswap"),
        stranger=theirs.sign("stranger"),
    )
    if os.geteuid() == 0:
        made.server.give_to(nobody().user, nobody().group)
    return made


@dataclass(frozen=True)
class Broker:
    """A RabbitMQ that takes TLS alone."""

    node: RabbitMQ
    port: int

    def url(self, *, host: str = "localhost", authority: Authority | None, client: Signed | None) -> str:
        login = self.node.url.rpartition("@")[0].replace("amqp:", "amqps:")
        files = {
            **({"cafile": authority.certificate} if authority else {}),
            **({"certfile": client.certificate, "keyfile": client.key} if client else {}),
        }
        return f"{login}@{host}:{self.port}/?{'&'.join(f'{name}={file}' for name, file in files.items())}"


@pytest.fixture
def broker(certificates: Certificates) -> Iterator[Broker]:
    try:
        binaries = get_rabbitmq("auto", print)
    except Unavailable as error:
        pytest.skip(str(error))
    with temporary_state() as state, free_ports(1) as (port,):
        server = certificates.server
        listener = _LISTENER.format(
            port=port, authority=certificates.ours.certificate, certificate=server.certificate, key=server.key
        )
        mapper, node = PortMapper(binaries, state), RabbitMQ(binaries, state, configuration=listener)
        try:
            mapper.start()
            node.start()
            yield Broker(node, port)
        finally:
            node.end()
            mapper.end()


async def refusal_of_broker(url: str) -> str:
    with pytest.raises(LINK_ERRORS) as refused:
        await Link.open(url, name="test")
    return say(refused.value)


async def test_rabbitmq_is_reached_with_the_right_certificates_alone(certificates: Certificates, broker: Broker):
    ours, theirs, client = certificates.ours, certificates.theirs, certificates.client
    right = broker.url(authority=ours, client=client)

    link = await Link.open(right, name="test")
    await link.close()
    said = {
        "wrong authority": await refusal_of_broker(broker.url(authority=theirs, client=client)),
        "the system's authorities": await refusal_of_broker(broker.url(authority=None, client=client)),
        "wrong host": await refusal_of_broker(broker.url(host="127.0.0.1", authority=ours, client=client)),
        "no client certificate": await refusal_of_broker(broker.url(authority=ours, client=None)),
        "a stranger's": await refusal_of_broker(broker.url(authority=ours, client=certificates.stranger)),
    }
    certificates.server.replace(certificates.expired)
    evaluate(broker.node, "ssl:clear_pem_cache()")
    said["expired"] = await refusal_of_broker(right)

    theirs_is_wrong = "the certificate of RabbitMQ is not accepted: "
    ours_is_wrong = "RabbitMQ does not accept our client certificate, or its absence: "
    assert said == {
        "wrong authority": f"{theirs_is_wrong}self-signed certificate in certificate chain",
        "the system's authorities": f"{theirs_is_wrong}self-signed certificate in certificate chain",
        "wrong host": f"{theirs_is_wrong}IP address mismatch, certificate is not valid for '127.0.0.1'",
        "no client certificate": f"{ours_is_wrong}certificate required",
        "a stranger's": f"{ours_is_wrong}unknown ca",
        "expired": f"{theirs_is_wrong}certificate has expired",
    }


@pytest.fixture
def postgres(certificates: Certificates, walkable_folder: Path) -> Iterator[Postgres]:
    """A Postgres that takes TLS with a client certificate alone."""
    try:
        binaries = get_postgres("auto")
    except Unavailable as error:
        pytest.skip(str(error))
    rules = walkable_folder / "pg_hba.conf"
    rules.write_text(_ONLY_WITH_CERTIFICATE)
    options = {
        "ssl": "on",
        "ssl_ca_file": str(certificates.ours.certificate),
        "ssl_cert_file": str(certificates.server.certificate),
        "ssl_key_file": str(certificates.server.key),
        "hba_file": str(rules),
    }
    with temporary_state() as state:
        server = Postgres(binaries, state, durable=False, options=options)
        try:
            server.start()
            yield server
        finally:
            server.end()


def database_url(
    postgres: Postgres,
    *,
    host: str = "localhost",
    authority: Authority,
    client: Signed | None,
) -> str:
    own = {"sslcert": client.certificate, "sslkey": client.key} if client else {}
    files = "".join(f"&{name}={file}" for name, file in {"sslrootcert": authority.certificate, **own}.items())
    return f"{postgres.url.replace('127.0.0.1', host)}?sslmode=verify-full{files}"


async def refusal_of_database(url: str) -> str:
    with pytest.raises(DependencyDown) as refused:
        await connect(url, application_name="test")
    return str(refused.value).removeprefix("no connection to Postgres: ")


async def test_postgres_is_reached_with_the_right_certificates_alone(certificates: Certificates, postgres: Postgres):
    ours, theirs, client = certificates.ours, certificates.theirs, certificates.client
    right = database_url(postgres, authority=ours, client=client)

    connection = await connect(right, application_name="test")
    is_encrypted = await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    said = {
        "wrong authority": await refusal_of_database(database_url(postgres, authority=theirs, client=client)),
        "wrong host": await refusal_of_database(
            database_url(postgres, host="127.0.0.1", authority=ours, client=client)
        ),
        "no client certificate": await refusal_of_database(database_url(postgres, authority=ours, client=None)),
        "a stranger's": await refusal_of_database(database_url(postgres, authority=ours, client=certificates.stranger)),
    }
    certificates.server.replace(certificates.expired)
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
    while "expired" not in said:
        with contextlib.suppress(pytest.fail.Exception):  # until it has read the files again
            said["expired"] = await refusal_of_database(right)

    theirs_is_wrong = "the certificate of Postgres is not accepted: "
    assert is_encrypted
    assert said.pop("a stranger's") in (
        "Postgres does not accept our client certificate, or its absence: unknown ca",
        (
            "ConnectionDoesNotExistError: connection was closed in the middle of operation; "
            "Postgres may not accept our client certificate"
        ),  # if the reset overtook the alert
    )
    assert said == {
        "wrong authority": f"{theirs_is_wrong}self-signed certificate in certificate chain",
        "wrong host": f"{theirs_is_wrong}IP address mismatch, certificate is not valid for '127.0.0.1'",
        "no client certificate": (
            "InvalidAuthorizationSpecificationError: connection requires a valid client certificate"
        ),
        "expired": f"{theirs_is_wrong}certificate has expired",
    }
