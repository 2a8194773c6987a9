"""A study's folder: records, identity, locks."""
