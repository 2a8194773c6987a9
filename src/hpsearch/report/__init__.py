"""What a user sees of a study: the page, plots, the console, the model card, the next commands."""
