//! User-mode networking: the guest's packets become calls on sockets of an ordinary user's.
pub mod dns;
pub mod policy;
