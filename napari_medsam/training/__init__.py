"""Synthetic training data and the run that makes the default model."""
