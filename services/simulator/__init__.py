"""
Simulator of Replicate: its HTTP API and signed webhooks, with injectable faults. For demo, tests and load only.

    api ──▶ world ──▶ models, training, prediction ──▶ job, logs     pure: the state at a given time
     ▲        ▲
    app ──▶ simulator ──▶ schedule ──▶ your webhook                  edge: clock, tasks, HTTP
                └───────▶ store                                      edge: the file that survives a restart

Without ``MODELSWAP_SIMULATOR_STATE`` a restart loses all state. With it, models, deletions, trainings and predictions
are restored, and unsent webhooks are posted; pending fault orders are lost. The seed, the order of calls and the
restarts determine everything. `faults` lists all faults; `described` adds a training described by
`modelswap trigger`.

Not simulated: files, deployments, collections and streams.
"""
