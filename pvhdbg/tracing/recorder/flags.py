"""How the recorder is compiled, on first use and for the wheel."""

FLAGS = ("-O2", "-g0", "-Wall", "-Wextra", "-shared", "-fPIC", "-fvisibility=hidden")
