"""hpsearch: hyperparameter search for fine-tuning BERT-class models."""

__version__ = "0.1.0"
