"""What spark-submit starts, for it takes a .py file and no command: `spark-submit main.py run align ... --runner spark`."""

from curate.cli import main

if __name__ == "__main__":  # the driver's own child processes import this file again
    main()
