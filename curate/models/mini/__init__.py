"""Small real models that train here in minutes: a captioner, a matcher, an embedder, and their training."""
