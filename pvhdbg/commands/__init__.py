"""The commands, each declared once: names, arguments, functions from options to an answer. The faces mount them."""
