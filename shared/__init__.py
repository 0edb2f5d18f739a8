"""Code shared by all services: `contract` (events), `replicate` (Replicate's API and formats) and `runtime` (edges)."""
