"""Where workers run: the interface between coordinator and workers, and workers as local processes."""
