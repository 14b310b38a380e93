"""Model families behind one interface: what a condition is, how a velocity is asked for."""
