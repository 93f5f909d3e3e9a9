"""The runner for a Ray cluster: tasks, actor pools for models, corpus counts on Ray Data. Only these files import ray."""
