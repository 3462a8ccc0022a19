"""A model as other tools load it."""
