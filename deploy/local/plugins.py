"""
RabbitMQ with the plugins that private servers use, and no others. Edge: the file system.

Erlang looks for each of a thousand modules in the folder of every plugin there is, enabled or not. Of the 82 that
RabbitMQ 4.3 comes with, 34 are needed; without the others, a start takes 1.8 s of CPU instead of 2.9 (2026-11; RabbitMQ
3.10: 3.2 instead of 6.2).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: `rabbit` is among what these need.
_USED: Final = ("rabbitmq_prelaunch", "rabbitmq_management", "rabbitmq_prometheus")


def with_few_plugins(server: Path, folder: Path) -> Path:
    """
    Make *folder* a RabbitMQ like that of the program *server*, with links to the plugins that are needed.

    Return its program: *server* itself where plugins are not kept as folders beside it.
    """
    scripts = server.resolve().parent
    plugins = {each.name.rpartition("-")[0]: each for each in (scripts.parent / "plugins").glob("*-*/")}
    if not all(name in plugins for name in _USED):
        return server
    shutil.rmtree(folder, ignore_errors=True)  # of the start before, perhaps of another version
    shutil.copytree(scripts, folder / "sbin")
    (folder / "plugins").mkdir()
    for plugin in _needed(plugins):
        (folder / "plugins" / plugin.name).symlink_to(plugin)
    return folder / "sbin" / server.name


def _needed(plugins: Mapping[str, Path]) -> list[Path]:
    """Return the folders of those that are used, and of all that they depend on."""
    found: dict[str, Path] = {}
    waiting = [*_USED]
    while waiting:
        name = waiting.pop()
        if name in plugins and name not in found:
            found[name] = plugins[name]
            description = (plugins[name] / "ebin" / f"{name}.app").read_text()
            applications = re.search(r"{applications,\s*\[([^]]*)]", description)
            waiting += re.findall(r"\w+", applications[1]) if applications else ()
    return list(found.values())
