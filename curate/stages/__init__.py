"""Stages provide facts: a batch of living rows in, the same rows with more columns out. They know no filter and no store."""
