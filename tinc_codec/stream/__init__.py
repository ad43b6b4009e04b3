"""The stages between values and bytes; they do not know one another."""
