"""
What a fork finds made, beside what is imported (`tests/forks.py`): the tree of commands, and what FastAPI, pydantic and
typing keep of the first API that is built. Each fork would make it again, which takes half of a command's CPU.
"""

from __future__ import annotations

from services.cli.main import app
from services.cli.mistyped import tree_of
from tests.apis import all_apis

tree_of(app)
all_apis()
