"""Build hook: puts this package and the part of the contract that it imports into one package, `modelswap_events`."""

from __future__ import annotations

import ast
import tempfile
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCE: Final = "shared.contract"
_PACKAGE: Final = "modelswap_events"
_HERE: Final = Path(__file__).parent
_CONTRACT: Final = _HERE.parent / "contract"


class Hook(BuildHookInterface[Any]):
    """Writes the package to a temporary folder, with the imports renamed."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add every file of the package to the wheel."""
        del version
        self._folder = tempfile.TemporaryDirectory()
        own = sorted((_HERE / _PACKAGE).glob("*.py"))
        contract = _needed_by(own)
        files = {f"{_PACKAGE}/{file.name}": file for file in own}
        files |= {f"{_PACKAGE}/contract/{file.name}": file for file in contract}
        for number, (target, file) in enumerate(files.items()):
            renamed = Path(self._folder.name) / str(number)
            renamed.write_text(file.read_text().replace(_SOURCE, f"{_PACKAGE}.contract"))
            build_data["force_include"][str(renamed)] = target
        build_data["force_include"][str(_HERE / _PACKAGE / "py.typed")] = f"{_PACKAGE}/py.typed"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Delete the temporary folder."""
        del version, build_data, artifact_path
        self._folder.cleanup()


def _needed_by(files: list[Path]) -> list[Path]:
    """Return the contract's files that *files* import, directly or by others."""
    needed, waiting = {_CONTRACT / "__init__.py"}, list(files)
    while waiting:
        found = {_CONTRACT / f"{name}.py" for name in _imported_by(waiting.pop())} - needed
        needed |= found
        waiting += found
    return sorted(needed)


def _imported_by(file: Path) -> set[str]:
    imports = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom))
    modules = (node.module for node in imports if node.module)
    return {module.removeprefix(f"{_SOURCE}.") for module in modules if module.startswith(f"{_SOURCE}.")}
