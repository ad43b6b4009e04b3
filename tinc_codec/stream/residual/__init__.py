"""What the tree leaves unsaid, and whole chunks that no tree says well."""
