"""Pieces that several papers share unchanged."""
