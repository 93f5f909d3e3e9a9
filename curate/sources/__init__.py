"""Inputs: tars, tables, folders, web archives, as batches of RECORD_SCHEMA. Listed once, opened in each task."""
