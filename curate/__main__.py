"""`curate` and `python -m curate`: the command line."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is imported is no traceback either."""
    try:
        from curate.cli import main as commands
    except KeyboardInterrupt:
        sys.stderr.write("curate: interrupted before it began\n")
        sys.exit(130)
    commands(prog_name="curate")


if __name__ == "__main__":
    main()
