"""
Finished trainings in, verified models out. No database.

Walk: `handler` (one delivery) → `outputs` (which model ref does the output name?) → `verify` (does it work?) →
`ModelReady`, or an error that says why not.
"""
