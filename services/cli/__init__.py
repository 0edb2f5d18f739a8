"""
The `modelswap` command: run everything, look at it, repair it.

*main*       the tree of commands; each imports what it needs when it runs, so that ``--help`` is quick
*options*    options that several commands take
*problem*    errors with the command to try next
*output*, *table*  tables for people, JSON for programs
*client*     edge: HTTP to the product's API and the operators' API
"""
