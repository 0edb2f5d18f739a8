"""
Webhooks in, training events out. The only public endpoint: stateless, without a database, scaled at will.

Walk: `app` (signature over the raw bytes) → `shared.replicate.training` (bytes to a training) → `translate` (training
to event) → the broker's confirm → 202.
"""
