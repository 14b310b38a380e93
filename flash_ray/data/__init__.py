"""Training cases: which, in what order, of which task, and the cache of their conditions."""
