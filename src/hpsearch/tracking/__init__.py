"""All use of MLflow except served models: a study's runs, their delivery, stores, forms and pictures."""
