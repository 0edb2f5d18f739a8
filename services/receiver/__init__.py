"""
Webhooks in, training events out. The only public door: stateless, no database, any number of them.

Walk: `app` (signature over the raw bytes) → `shared.replicate.training` (bytes to a training) → `translate` (training
to event) → the broker's confirm → 202.
"""
