"""Pure functions over records: who starts, who goes on, who is out, who wins, what is better."""
