"""Kinds of task, each whole in its module, and their metrics."""
