"""The product's view: trainings and models."""
