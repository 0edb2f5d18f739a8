"""What services say to each other. Pure: pydantic and the standard library, nothing that waits."""
