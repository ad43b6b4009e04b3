"""How fast the package is, against its rivals and against what the machine can do."""
