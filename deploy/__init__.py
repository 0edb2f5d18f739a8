"""Deployment: image, compose settings, alerts, runbook, and private servers for development."""
