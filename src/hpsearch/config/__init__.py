"""Settings and their checks, composition with Hydra, and the search space."""
