"""Distillation: the method as pure mathematics, and the workers that run it."""
