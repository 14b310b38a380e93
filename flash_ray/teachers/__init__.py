"""Teachers: they answer, for a noised latent, the velocity of the (guided) frozen models."""
