"""Validates captured messages with the classes that were generated from the schemas. Usage: take.py messages.json."""

import importlib
import json
import sys
from pathlib import Path

from pydantic import BaseModel, ValidationError


def classes(module: str) -> dict[str, type[BaseModel]]:
    found = vars(importlib.import_module(f"types_made.{module}"))
    return {name: each for name, each in found.items() if isinstance(each, type) and issubclass(each, BaseModel)}


for key, message in json.loads(Path(sys.argv[1]).read_text()).items():
    name = "".join(part.title() for part in key.split(".")[:-1])
    event = classes(key.replace(".", "_"))[name]
    taken = event.model_validate(message["body"]).model_dump(mode="json", exclude_unset=True)
    assert taken.keys() == message["body"].keys()
    try:
        event.model_validate({**message["body"], "training_id": None})
    except ValidationError:
        sys.stdout.write(f"{key}: taken, and refused without a field\n")
