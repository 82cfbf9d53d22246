"""`python -m connector` and the console script `connector`."""

from __future__ import annotations

import sys
from typing import NoReturn

from connector import cli


def main() -> NoReturn:
    sys.exit(cli.run(sys.argv[1:]))


if __name__ == "__main__":
    main()
