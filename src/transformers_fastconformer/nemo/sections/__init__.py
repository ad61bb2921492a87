"""Sections of NeMo's configuration, a table or a few each. Defaults are those of NeMo 3.0.0 for absent keys."""
