"""All of MLflow but served models: a study's runs, their delivery, stores, forms and pictures."""
