//! What the guest sends.
use std::{io, os::fd::OwnedFd, time::Instant};

use super::{ASK_AGAIN, CLOSE_TIME, MOST_RESETS, Switch, Taken, count};
use crate::virtio::{
    buffers,
    queue::Broken,
    vsock::{
        connection::{Asking, Connection, Phase},
        guest::Job,
        host,
        packet::{HEADER, HOST_CID, Header, Ports, STREAM, ending, op},
        table::Token,
    },
};

impl Switch {
    /// Takes what the guest has sent, as far as it may be taken now.
    pub(in super::super) fn take_packets(
        &mut self,
        job: &mut Job,
        most: usize,
    ) -> Result<Taken, Broken> {
        for _ in 0..most {
            if self.resets.len() >= MOST_RESETS {
                return Ok(Taken::Held);
            }
            let Some(header) = job.next_packet()? else {
                return Ok(Taken::All);
            };
            self.common.counters.packets_from_guest.count();
            self.take(&header, job)?;
            job.packet_done()?;
        }
        Ok(Taken::More)
    }

    pub(super) fn take(&mut self, header: &Header, job: &Job) -> Result<(), Broken> {
        if header.src_cid != u64::from(self.common.cid) || header.dst_cid != HOST_CID {
            // Nobody's: there is no third party.
            self.common.counters.dropped.count();
            return Ok(());
        }
        let ports = header.ports();
        let token = match self.table.find(ports) {
            Some(token) if header.kind == STREAM => token,
            _ => {
                self.take_unknown(header);
                return Ok(());
            }
        };
        if let Some(connection) = self.table.get(token) {
            connection.credit.hear(header.buf_alloc, header.fwd_cnt);
            connection.asked_for_credit &= connection.credit.free() == 0;
        }
        match header.op {
            op::RESPONSE => self.take_response(token, ports),
            op::RST => self.take_reset(token),
            op::SHUTDOWN => self.take_shutdown(token, header.flags),
            op::RW => self.take_data(token, header, job)?,
            op::CREDIT_UPDATE => {}
            op::CREDIT_REQUEST => {
                if let Some(connection) = self.table.get(token) {
                    connection.owed.credit = true;
                }
            }
            _ => self.reset(token),
        }
        self.table.line_up(token);
        Ok(())
    }

    /// A packet about no connection: the guest wants one, or has one that there is not.
    pub(super) fn take_unknown(&mut self, header: &Header) {
        let ports = header.ports();
        match header.op {
            op::RST => {}
            op::REQUEST if header.kind == STREAM => match self.connect(ports.host) {
                Some(socket) => self.open(socket, ports, header),
                None => {
                    self.common.counters.refused.count();
                    self.resets.push_back(ports);
                }
            },
            _ => self.resets.push_back(ports),
        }
    }

    /// A server on the host for a port.
    pub(super) fn connect(&mut self, port: u32) -> Option<OwnedFd> {
        if self.table.is_full() {
            return None;
        }
        let name = format!("{}_{port}", self.common.name);
        match host::connect(&self.common.directory, &name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                // That nobody listens is the guest's to know.
                let usual = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
                if !usual.contains(&error.kind()) {
                    self.common
                        .notices
                        .say(format_args!("cannot connect the guest to {name}: {error}"));
                }
                None
            }
        }
    }

    pub(super) fn open(&mut self, socket: OwnedFd, ports: Ports, header: &Header) {
        let mut connection = Connection::new(socket, Phase::Open, Some(ports), self.room());
        connection.credit.hear(header.buf_alloc, header.fwd_cnt);
        connection.owed.response = true;
        let token = self.table.insert(connection);
        self.common.counters.opened.count();
        if self.watch(token).is_err() {
            self.reset(token);
        }
        self.table.line_up(token);
    }

    /// The guest takes a client.
    pub(super) fn take_response(&mut self, token: Token, ports: Ports) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        if !matches!(connection.phase, Phase::Asking(_)) || connection.owed.request {
            self.reset(token);
            return;
        }
        connection.phase = Phase::Open;
        connection.answer_client(ports.host);
        self.table.set_deadline(token, None);
    }

    /// The guest does not take a client, or gives a connection up.
    pub(super) fn take_reset(&mut self, token: Token) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        match connection.phase {
            Phase::Asking(Asking {
                until,
                again: Some(again),
            }) => {
                let next = Phase::Asking(Asking {
                    until,
                    again: Some((2 * again).min(ASK_AGAIN.1)),
                });
                connection.phase = next;
                connection.owed.request = false;
                self.table
                    .set_deadline(token, Some(until.min(Instant::now() + again)));
            }
            // What it sent before goes on.
            Phase::Draining => self.table.forget_ports(token),
            Phase::Asking(_) => {
                self.common.counters.refused.count();
                self.remove(token);
            }
            Phase::Greeting | Phase::Open | Phase::Leaving => self.remove(token),
        }
    }

    pub(super) fn take_shutdown(&mut self, token: Token, flags: u32) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        match connection.phase {
            Phase::Open => {
                connection.guest_ends(flags);
                if connection.is_finished() {
                    self.reset(token);
                } else if connection.guest_ending == ending::BOTH {
                    connection.phase = Phase::Draining;
                    self.table
                        .set_deadline(token, Some(Instant::now() + CLOSE_TIME));
                } else {
                    self.leave_if_done(token);
                }
            }
            Phase::Leaving if flags & ending::BOTH == ending::BOTH => self.reset(token),
            Phase::Leaving | Phase::Draining => {}
            Phase::Greeting | Phase::Asking(_) => self.reset(token),
        }
    }

    pub(super) fn take_data(
        &mut self,
        token: Token,
        header: &Header,
        job: &Job,
    ) -> Result<(), Broken> {
        let length = usize::try_from(header.len).map_err(|_| Broken)?;
        let Some(connection) = self.table.get(token) else {
            return Ok(());
        };
        match connection.phase {
            Phase::Open if connection.guest_ending & ending::SEND == 0 => {}
            // It may not know yet that nobody reads it.
            Phase::Leaving => return Ok(()),
            _ => {
                self.reset(token);
                return Ok(());
            }
        }
        let room = usize::try_from(connection.credit.alloc()).map_err(|_| Broken)?;
        if connection.backlog.len().saturating_add(length) > room {
            self.common.counters.overruns.count();
            self.reset(token);
            return Ok(());
        }
        let forwarded = pass_on(connection, length, job, &mut self.vectors.0)?;
        connection.forwarded(forwarded);
        self.common.counters.bytes_from_guest.add(count(forwarded));
        Ok(())
    }
}

/// Passes data of the guest's on to the socket, straight from its memory, and keeps what that does not take; how much went on.
fn pass_on(
    connection: &mut Connection,
    length: usize,
    job: &Job,
    vectors: &mut Vec<libc::iovec>,
) -> Result<usize, Broken> {
    let mut sent = 0;
    if connection.hung_up || length == 0 {
        return Ok(length);
    }
    if connection.writable
        && connection.backlog.is_empty()
        && let Some(socket) = connection.socket()
    {
        vectors.clear();
        let gathered = buffers::gather(job.memory(), job.packet(), HEADER, length, vectors)?;
        if gathered < length {
            return Err(Broken);
        }
        let direct = &vectors[..vectors.len().min(buffers::MAX_VECTORS)];
        let wanted: usize = direct.iter().map(|vector| vector.iov_len).sum();
        match host::send(socket, direct) {
            Ok(bytes) => sent = bytes,
            Err(_) => {
                connection.hung_up = true;
                return Ok(length);
            }
        }
        connection.writable = sent == wanted;
    }
    if sent < length {
        connection
            .backlog
            .copy(job.memory(), job.packet(), HEADER + sent, length - sent)?;
        if connection.writable {
            sent += connection.flush();
        }
    }
    Ok(sent)
}
