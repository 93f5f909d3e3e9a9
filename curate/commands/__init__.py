"""The commands of the command line, one file per command, imported when the command is called.

Belongs here: arguments, printing, exit codes. Does not belong here: the work itself, which Python programs can call too.
"""
