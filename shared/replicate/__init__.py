"""What Replicate says and how it is asked. Pure, except for `client`: the one edge that calls its API."""
