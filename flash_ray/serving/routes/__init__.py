"""The paths of the application, by subject."""
