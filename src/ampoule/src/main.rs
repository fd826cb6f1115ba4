//! The `ampoule` program.
mod definition;
mod doctor;

fn main() {}
