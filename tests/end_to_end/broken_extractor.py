"""The extractor with a bug in its parser: whatever the output is, it sees no model in it."""

from __future__ import annotations

import sys
from typing import NoReturn

from services.extractor import handler
from services.extractor.__main__ import run
from services.extractor.errors import NoModel
from shared.runtime.lifecycle import main
from shared.runtime.settings import ExtractorSettings


def find_model(*_: object, **__: object) -> NoReturn:
    raise NoModel("the output names no model")


if __name__ == "__main__":
    handler.find_model = find_model  # type: ignore[attr-defined]
    sys.exit(main("extractor", ExtractorSettings, run))
