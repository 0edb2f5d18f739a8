"""Code shared by all services: `contract` (events), `replicate` (Replicate's API and formats) and `runtime` (edges)."""

import sys

# httpx imports its own command line, with click and pygments, where these are installed. That was a tenth of the time
# in which a command of ours starts (measured 2026-11). Python raises ImportError for a module that is None here.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
