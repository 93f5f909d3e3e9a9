"""Stages: each takes a batch of the rows alive and adds facts. They know nothing of filters, stores or engines."""
