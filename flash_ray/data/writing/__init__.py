"""Prompts and edits that a language model writes, from a spec: `flash-ray data write`."""
