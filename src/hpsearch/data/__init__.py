"""Sources to rows, texts to tokens."""
