"""Kinds of task, each complete in its own module, and their metrics."""
