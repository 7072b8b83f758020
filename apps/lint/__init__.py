"""Forecasts of what an accelerator takes of an artifact, from rules with sources; no device is involved."""
