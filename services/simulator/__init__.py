"""
A Replicate that isn't: its HTTP API and its signed webhooks, with faults to order. For demo, tests and load only.

    api ──▶ world ──▶ models, training, prediction ──▶ job, logs     pure: what is so at which moment
     ▲        ▲
    app ──▶ simulator ──▶ schedule ──▶ client ──▶ your webhook       edge: the clock, the tasks, the wire

Nothing here is kept: a restart forgets every training. All that happens follows from the seed and the order of calls.
`faults` is the one list of what can go wrong.

Left out: files, deployments, collections, streams (as of a model that has none), and the webhooks of predictions.
"""
