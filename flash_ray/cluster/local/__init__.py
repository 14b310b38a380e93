"""A Ray cluster of several nodes on one machine, which grows and shrinks with the work."""
