"""Studies: arms of a recipe under several seeds, scored on the same cases and compared."""
