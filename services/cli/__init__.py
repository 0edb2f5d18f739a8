"""
The `modelswap` command: run the whole thing, look at it, try it.

*main*       the tree of commands; each imports what it needs when it runs, so that ``--help`` is quick
*problem*    what went wrong, and which command to try next
*output*     tables for people, JSON for programs
*client*     edge: HTTP to the product's API, to the receiver and to whoever listens
*subscription*  edge: a queue of our own on the broker
"""
