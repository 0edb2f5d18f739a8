"""
Finds and verifies the models of finished trainings. No database.

Walk: `handler` (one delivery) → `outputs` (which model ref does the output name?) → `verify` (does it work?) →
`ModelReady`, or an error with the reason.
"""
