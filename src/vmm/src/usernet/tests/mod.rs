//! Networks with a guest whose stack nobody here wrote, and servers and clients on this host's loopback.
mod guest;
mod streams;
