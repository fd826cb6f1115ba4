//! Networks with a guest whose stack nobody here wrote, and servers and clients on this host's loopback.
mod datagrams;
mod guest;
mod limits;
mod link;
mod names;
mod properties;
mod streams;
