"""How the processes and their queues are, asked when an operator wants to know."""
