"""Dead letters go back to where they came from: looked at first, in steps, stopped when it goes wrong, and undone."""
