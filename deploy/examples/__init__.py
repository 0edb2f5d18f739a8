"""Examples of services beside modelswap; `modelswap up --example` runs the generator."""
