"""Teachers answer, for a noised latent, with the velocities of guided frozen models."""
