"""A Ray cluster: tasks, actor pools for models, corpus counts on Ray Data."""
