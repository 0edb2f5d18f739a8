"""The contract between services. Pure: pydantic and the standard library, no I/O."""
