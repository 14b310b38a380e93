"""Model families behind one interface: what a condition is, and how a velocity is asked for."""
