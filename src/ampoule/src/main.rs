//! The `ampoule` program.
mod definition;

fn main() {}
