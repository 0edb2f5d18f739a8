"""What all services stand on: what they say (`contract`), what Replicate says (`replicate`), and `runtime`."""
