//! `ampoule doctor`: what this host can do, what is missing, and the command that mends it.
