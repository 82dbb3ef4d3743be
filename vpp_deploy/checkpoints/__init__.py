"""Checkpoints: read safely, understand, check and load."""
