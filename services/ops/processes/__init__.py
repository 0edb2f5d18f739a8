"""The state of the processes and their queues, read when an operator asks."""
