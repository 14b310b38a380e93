"""Serves models over HTTP by Ray Serve: pictures, edits, scores, and the gallery."""
