//! What the `ampoule` program is made of, as far as others (tests, fuzz targets) want to call it.
pub mod definition;
