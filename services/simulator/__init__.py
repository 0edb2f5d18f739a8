"""
A Replicate that isn't: its HTTP API and its signed webhooks, with faults to order. For demo, tests and load only.

    api ──▶ world ──▶ models, training, prediction ──▶ job, logs     pure: what is so at which moment
     ▲        ▲
    app ──▶ simulator ──▶ schedule ──▶ client ──▶ your webhook       edge: the clock, the tasks, the wire
                └───────▶ store                                      edge: the file that survives a restart

Without ``MODELSWAP_SIMULATOR_STATE`` nothing is kept: a restart forgets every training. With it, trainings and
predictions are known again, and their webhooks that have not left yet are posted; faults on order are forgotten.
All that happens follows from the seed, the order of calls and the restarts.
`faults` is the one list of what can go wrong; `told` takes a training over from `modelswap trigger`.

Left out: files, deployments, collections, streams (as of a model that has none), and the webhooks of predictions.
"""
