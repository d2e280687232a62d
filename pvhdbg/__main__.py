"""`python -m pvhdbg`."""

import sys

from pvhdbg.frontends.cli import program

sys.exit(program())
