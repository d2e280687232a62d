"""The version, in a module that imports nothing, so that `pvhdbg --version` is instant."""

VERSION = "0.1.0"
BASE_URL = ""  # of the documentation site, with a slash at its end, once the project has a home
