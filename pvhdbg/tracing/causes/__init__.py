"""The causes that a death is recognized by: one module for each kind. Pure; each says only what the evidence proves."""
