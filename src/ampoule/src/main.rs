//! The `ampoule` program.
mod doctor;

fn main() {}
