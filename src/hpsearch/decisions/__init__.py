"""Pure functions over records: which trials start, go on, drop out or win, and which model is better."""
