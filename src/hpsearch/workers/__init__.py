"""Where workers run: the interface that the coordinator has of them, and local processes."""
