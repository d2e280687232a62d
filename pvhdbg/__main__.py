"""`python -m pvhdbg`."""

import sys

from pvhdbg.frontends.cli import main

sys.exit(main())
