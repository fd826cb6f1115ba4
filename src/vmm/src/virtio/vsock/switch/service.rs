//! What the guest gets.
use std::time::Instant;

use super::{CLOSE_TIME, Switch, TURN, count};
use crate::virtio::{
    queue::Broken,
    vsock::{
        connection::Phase,
        guest::Job,
        host::{self, Received},
        packet::{Header, ending, op},
        table::Token,
    },
};

impl Switch {
    /// Whether the guest is owed anything.
    pub(in super::super) fn has_something(&self) -> bool {
        !self.resets.is_empty() || self.table.has_line()
    }

    /// Gives the guest what it is owed, as far as it has buffers, up to so many turns; whether it had too few.
    pub(in super::super) fn give_packets(
        &mut self,
        job: &mut Job,
        most: usize,
    ) -> Result<bool, Broken> {
        for _ in 0..most {
            if !self.has_something() {
                return Ok(false);
            }
            if !job.has_buffers(1)? {
                return Ok(true);
            }
            if let Some(ports) = self.resets.pop_front() {
                self.send(job, &Header::to_guest(self.common.cid, ports, op::RST))?;
            } else if let Some(token) = self.table.next_in_line() {
                self.serve(token, job)?;
            }
        }
        Ok(false)
    }

    pub(super) fn send(&self, job: &mut Job, header: &Header) -> Result<(), Broken> {
        self.common.counters.packets_to_guest.count();
        job.deliver(header)
    }

    /// Gives the guest one thing of a connection's. There is a buffer.
    pub(super) fn serve(&mut self, token: Token, job: &mut Job) -> Result<(), Broken> {
        let Some(connection) = self.table.get(token) else {
            return Ok(());
        };
        let Some(ports) = connection.ports else {
            return Ok(());
        };
        let mut flags = 0;
        let has_data = connection.has_data();
        let owed = &mut connection.owed;
        let op = if owed.reset {
            op::RST
        } else if std::mem::take(&mut owed.request) {
            op::REQUEST
        } else if std::mem::take(&mut owed.response) {
            op::RESPONSE
        } else if has_data && connection.credit.free() > 0 {
            self.serve_data(token, job)?;
            self.table.line_up(token);
            return Ok(());
        } else if std::mem::take(&mut owed.shutdown) {
            flags = connection.host_ending;
            op::SHUTDOWN
        } else if has_data && !connection.asked_for_credit {
            connection.asked_for_credit = true;
            op::CREDIT_REQUEST
        } else if owed.credit {
            op::CREDIT_UPDATE
        } else {
            return Ok(());
        };
        connection.owed.credit = false;
        let (buf_alloc, fwd_cnt) = connection.credit.tell();
        let header = Header {
            flags,
            buf_alloc,
            fwd_cnt,
            ..Header::to_guest(self.common.cid, ports, op)
        };
        self.send(job, &header)?;
        if op == op::RST {
            self.remove(token);
        } else {
            self.table.line_up(token);
        }
        Ok(())
    }

    /// Reads what the host's end has sent into the guest's buffers.
    pub(super) fn serve_data(&mut self, token: Token, job: &mut Job) -> Result<(), Broken> {
        let Some(connection) = self.table.get(token) else {
            return Ok(());
        };
        let free = usize::try_from(connection.credit.free()).map_err(|_| Broken)?;
        let limit = free.min(TURN);
        job.has_buffers(limit)?;
        let room = job.places(limit, &mut self.vectors.0)?;
        let (Some(ports), Some(socket)) = (connection.ports, connection.socket()) else {
            return Ok(());
        };
        let mut left = match host::receive(socket, &mut self.vectors.0, room, false) {
            Received::Bytes(bytes, all) => {
                // Of what follows its last byte it has told already.
                connection.readable = !all || connection.closing || connection.hung_up;
                bytes
            }
            Received::Nothing => {
                connection.readable = false;
                0
            }
            Received::End => {
                self.host_ends(token);
                return Ok(());
            }
        };
        self.common.counters.bytes_to_guest.add(count(left));
        connection.owed.credit &= left == 0;
        let (buf_alloc, fwd_cnt) = connection.credit.tell();
        connection
            .credit
            .send(u32::try_from(left).map_err(|_| Broken)?);
        while left > 0 {
            let piece = job.first_room().min(left);
            let header = Header {
                len: u32::try_from(piece).map_err(|_| Broken)?,
                buf_alloc,
                fwd_cnt,
                ..Header::to_guest(self.common.cid, ports, op::RW)
            };
            self.send(job, &header)?;
            left -= piece;
        }
        Ok(())
    }

    /// All is read that the host's end sent.
    pub(super) fn host_ends(&mut self, token: Token) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        connection.ended = true;
        connection.owed.shutdown = true;
        connection.host_ending |= ending::SEND;
        if connection.hung_up {
            connection.host_ending = ending::BOTH;
            connection.phase = Phase::Leaving;
            connection.close();
            self.table
                .set_deadline(token, Some(Instant::now() + CLOSE_TIME));
        }
    }
}
