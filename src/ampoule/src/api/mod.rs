//! The control socket: Firecracker's HTTP API over a unix socket, served by a thread of the guest's process.
//!
//! `socket` makes it, before the process is confined; `server` waits for clients, of which `client` is one; `http` makes requests
//! of their bytes; `resources` answers. No client is waited for: what it has not sent yet, or does not take yet, is left for later.
mod balloon;
mod cards;
mod client;
mod drives;
pub mod http;
pub mod resources;
mod response;
mod server;
mod socket;

use std::os::fd::OwnedFd;

use vmm::{
    machine::{Attendant, Control},
    sandbox::Role,
};

pub use self::{
    cards::Card,
    drives::Disk,
    resources::{About, Handles, Resources},
    response::{Response, Status},
    socket::{SocketError, listen},
};

/// The thread that serves `listener` for as long as its machine lives.
pub fn attendant(listener: OwnedFd, about: About) -> Attendant {
    let work = move |control: Control| {
        let resources = Resources::new(about, control.clone());
        server::Server::new(listener, resources).run(control.end());
    };
    Attendant {
        name: "api",
        role: Role::Api,
        work: Box::new(work),
    }
}
