"""What each command of the command line does, one file each; imported when it is called."""
