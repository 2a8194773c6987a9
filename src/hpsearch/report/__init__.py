"""What people see: the page, plots, the console, the model card, the next commands."""
