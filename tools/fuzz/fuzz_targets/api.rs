//! Any bytes from a client of the control socket, in any pieces: never a panic, the same requests however they are cut, and an
//! answer to each.
#![no_main]

use std::{cell::Cell, fs::File};

use ampoule::api::{
    About, Disk, Handles, Resources, Status,
    http::{Decoder, MAX_BODY, Progress, Refusal, Request},
    resources::Vm,
};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use vmm::{
    config::{BootSource, Definition, Drive},
    machine::{ControlError, State},
    virtio::{
        balloon::Balloon,
        block::{Block, Cache, Choice, Image, Options},
    },
};

/// A machine that only remembers.
struct Fake(Cell<State>);

impl Vm for Fake {
    fn state(&self) -> Result<State, ControlError> {
        Ok(self.0.get())
    }

    fn pause(&self) -> Result<(), ControlError> {
        self.0.set(State::Paused);
        Ok(())
    }

    fn resume(&self) -> Result<(), ControlError> {
        self.0.set(State::Running);
        Ok(())
    }

    fn press_power_button(&self) -> Result<(), ControlError> {
        Err(ControlError::Ended)
    }

    fn plug(&self, _: usize) -> Result<(), ControlError> {
        Err(ControlError::Ended)
    }
}

fn resources() -> Resources<Fake> {
    let image = memfd_create("image", MemfdFlags::CLOEXEC).expect("the host has room");
    let options = Options {
        image: Image::cached(File::from(image)),
        read_only: false,
        cache: Cache::WriteBack,
        id: "d".into(),
        serial: "d".into(),
        queues: 1,
    };
    let block = Block::new(options, "d".into(), Choice::Best).expect("the host has room");
    let balloon = Balloon::new(Default::default()).expect("the host has room");
    let mut definition = Definition::new(BootSource::new("k"));
    definition.balloon = Some(Default::default());
    definition.drives = vec![Drive::new("d", "d")];
    let disks = vec![Disk {
        id: "d".into(),
        handle: block.handle(),
    }];
    let mut devices = Handles::default();
    devices.disks = disks;
    devices.balloon = Some(balloon.handle());
    let about = About {
        id: "g".into(),
        definition,
        devices,
    };
    Resources::new(about, Fake(Cell::new(State::Running)))
}

/// What becomes of bytes that come in pieces of `size`.
fn decode(bytes: &[u8], size: usize) -> Vec<Result<Request, Refusal>> {
    let (mut decoder, mut outcomes) = (Decoder::default(), Vec::new());
    let mut rest = bytes;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(size).min(decoder.room()));
        assert!(!now.is_empty());
        decoder.push(now);
        rest = later;
        loop {
            match decoder.advance() {
                Ok(Progress::Request(request)) => outcomes.push(Ok(request)),
                Ok(Progress::Continue) => {}
                Ok(Progress::Incomplete) => break,
                Err(refusal) => {
                    outcomes.push(Err(refusal));
                    return outcomes;
                }
            }
        }
    }
    outcomes
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let outcomes = decode(bytes, usize::from(size).max(1));
    assert_eq!(outcomes, decode(bytes, usize::MAX));
    let mut resources = resources();
    for request in outcomes.into_iter().flatten() {
        assert!(request.body.len() <= MAX_BODY);
        let response = resources.answer(&request, Vec::new());
        assert_eq!(
            response.body.is_empty(),
            response.status == Status::NoContent
        );
        assert!(response.bytes(true, true).starts_with(b"HTTP/1.1 "));
    }
});
