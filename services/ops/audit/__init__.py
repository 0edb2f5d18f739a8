"""The audit: who did what, why, and with which outcome."""
