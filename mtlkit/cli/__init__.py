"""The commands of ``python -m mtlkit``: each is a function of its parsed arguments."""
