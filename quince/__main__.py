"""``python -m quince`` is the ``quince`` command."""

from __future__ import annotations

import sys

INTERRUPTED = 130  # what shells say of a command that Ctrl-C ended


def main() -> None:
    """Imports take long enough for a Ctrl-C to come before the command line is there to hear it."""
    try:
        from quince.cli.main import main

        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
