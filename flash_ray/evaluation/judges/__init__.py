"""Judges behind one interface: the miniature's exact one, OCR of rendered text, VLMs over HTTP."""
