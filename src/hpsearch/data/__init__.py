"""Readers that turn data sources into rows, and texts into tokens."""
