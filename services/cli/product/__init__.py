"""Trainings and models, through the product's API."""
