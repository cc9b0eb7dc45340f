"""Prediction: sources in, results out, on the engine of your choice."""
