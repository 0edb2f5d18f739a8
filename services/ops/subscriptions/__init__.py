"""Subscriptions: a queue and a RabbitMQ user for each service that consumes our events."""
