"""`python -m llmzip`."""

import sys

from llmzip.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
