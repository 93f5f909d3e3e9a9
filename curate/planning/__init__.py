"""From a recipe to what must be computed, in which order. Reads YAML, computes nothing, touches no record."""
