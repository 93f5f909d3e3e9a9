"""A Spark cluster: tasks in child processes of the executors, corpus counts on Spark SQL."""
