"""Settings, their checks, Hydra, the search space."""
