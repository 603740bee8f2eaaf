"""Sweeps: search spaces, the Optuna study and what it says; knows neither Ray nor torch."""
