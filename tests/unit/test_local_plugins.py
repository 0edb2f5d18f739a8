"""Which plugins a private RabbitMQ is started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local.plugins import with_few_plugins

#: Of each plugin, what it depends on; what is no plugin comes with Erlang.
PLUGINS = {
    "rabbit": ["kernel", "ra"],
    "ra": ["kernel"],
    "cowboy": ["ssl"],
    "rabbitmq_prelaunch": ["kernel"],
    "rabbitmq_management": ["kernel", "rabbit", "cowboy"],
    "rabbitmq_prometheus": ["rabbit"],
    "rabbitmq_shovel": ["rabbit", "amqp10_client"],
    "amqp10_client": ["kernel"],
}


@pytest.fixture
def server(tmp_path: Path) -> Path:
    for name, needed in PLUGINS.items():
        description = tmp_path / "home" / "plugins" / f"{name}-4.3.6" / "ebin" / f"{name}.app"
        description.parent.mkdir(parents=True)
        description.write_text(
            f"{{application, {name}, [\n  {{applications, [{','.join(needed)}]}},\n  {{env, []}}]}}.\n"
        )
    scripts = tmp_path / "home" / "sbin"
    scripts.mkdir()
    (scripts / "rabbitmq-env").write_text("")
    (scripts / "rabbitmq-server").write_text("")
    linked = tmp_path / "rabbitmq-server"
    linked.symlink_to(scripts / "rabbitmq-server")
    return linked


def test_plugins_that_nothing_needs_are_left_out(server: Path, tmp_path: Path):
    begun = with_few_plugins(server, tmp_path / "few")

    assert begun == tmp_path / "few" / "sbin" / "rabbitmq-server"
    assert (begun.parent / "rabbitmq-env").exists()
    there = {each.name.removesuffix("-4.3.6") for each in (tmp_path / "few" / "plugins").iterdir()}
    assert there == PLUGINS.keys() - {"rabbitmq_shovel", "amqp10_client"}
    assert (tmp_path / "few" / "plugins" / "ra-4.3.6" / "ebin" / "ra.app").exists()


def test_another_version_leaves_nothing_of_the_one_before(server: Path, tmp_path: Path):
    with_few_plugins(server, tmp_path / "few")
    plugins = tmp_path / "home" / "plugins"
    (plugins / "ra-4.3.6").rename(plugins / "ra-4.3.7")

    with_few_plugins(server, tmp_path / "few")

    assert [each.name for each in (tmp_path / "few" / "plugins").glob("ra-*")] == ["ra-4.3.7"]


def test_a_server_whose_plugins_are_elsewhere_is_started_as_it_is(tmp_path: Path):
    server = tmp_path / "sbin" / "rabbitmq-server"

    assert with_few_plugins(server, tmp_path / "few") == server
