"""Dead letters, replays, reconciliation and the audit, through the operators' API."""
