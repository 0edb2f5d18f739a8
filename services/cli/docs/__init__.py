"""The contract as documents, generated from the classes that run."""
