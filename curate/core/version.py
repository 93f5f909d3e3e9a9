"""The version of curate: part of what decides the facts of its stages."""

__version__ = "0.1.0"
