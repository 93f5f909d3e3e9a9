"""The runner for a Spark cluster: tasks in child processes of the executors, corpus counts on Spark SQL.

Only these files import pyspark and py4j.
"""
