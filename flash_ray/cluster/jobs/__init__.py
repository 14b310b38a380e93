"""Sends commands to a Ray cluster as jobs, and follows them."""
