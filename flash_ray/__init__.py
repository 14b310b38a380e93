"""flash_ray: distill many-step image models into few-step students, on Ray."""

__version__ = "0.1.0"
