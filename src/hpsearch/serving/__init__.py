"""Logged models in use: loading, serving, and predictions for files."""
