"""A study from settings to result: its phases, the loop that feeds workers, the books, Optuna."""
