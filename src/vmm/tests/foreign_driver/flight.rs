//! Requests in flight: several at once, interrupts for them, and a driver that goes away before they end.
use std::{
    mem::{self, ManuallyDrop},
    sync::atomic::{Ordering, fence},
};

use virtio_drivers::{
    Error, Result,
    device::blk::{BlkReq, BlkResp},
    transport::{DeviceStatus, InterruptStatus, Transport},
};
use vmm::virtio::feature;

use super::{
    Where, bytes,
    disk::{Driver, Machine, disks},
    pages,
};

/// Entries of the driver's queue.
const ENTRIES: usize = 16;

/// A request, whose parts stay where they are while it is in flight.
struct Request {
    sector: usize,
    writes: bool,
    header: BlkReq,
    data: Vec<u8>,
    response: BlkResp,
}

impl Request {
    fn read(sector: usize, count: usize) -> Self {
        Self::new(sector, false, vec![0; 512 * count])
    }

    fn write(sector: usize, data: Vec<u8>) -> Self {
        Self::new(sector, true, data)
    }

    fn new(sector: usize, writes: bool, data: Vec<u8>) -> Self {
        Self {
            sector,
            writes,
            header: BlkReq::default(),
            data,
            response: BlkResp::default(),
        }
    }

    fn submit(&mut self, driver: &mut Driver) -> Result<u16> {
        let (sector, header, response) = (self.sector, &mut self.header, &mut self.response);
        // SAFETY: the request stays as and where it is until it is complete, or its driver is gone.
        unsafe {
            if self.writes {
                driver.write_blocks_nb(sector, header, &self.data, response)
            } else {
                driver.read_blocks_nb(sector, header, &mut self.data, response)
            }
        }
    }

    fn complete(&mut self, driver: &mut Driver, token: u16) -> Result<()> {
        let (header, response) = (&self.header, &mut self.response);
        // SAFETY: these are the buffers that it was submitted with.
        unsafe {
            if self.writes {
                driver.complete_write_blocks(token, header, &self.data, response)
            } else {
                driver.complete_read_blocks(token, header, &mut self.data, response)
            }
        }
    }
}

/// Requests by the tokens that they have at the driver.
#[derive(Default)]
struct Flight {
    under_way: Vec<(u16, Box<Request>)>,
}

impl Flight {
    /// Submits `request`, if there is room for it.
    fn add(&mut self, driver: &mut Driver, request: Request) -> bool {
        let mut request = Box::new(request);
        match request.submit(driver) {
            Ok(token) => self.under_way.push((token, request)),
            Err(error) => {
                assert_eq!(error, Error::QueueFull);
                return false;
            }
        }
        true
    }

    /// Waits, by interrupts, until one of them is done.
    fn land(&mut self, machine: &Machine, driver: &mut Driver) -> Box<Request> {
        let mut done = None;
        machine.board.edges.wait_until(|| {
            // What the driver said it wants to hear of is said before it looks.
            fence(Ordering::SeqCst);
            done = driver.peek_used();
            done.is_some()
        });
        let token = done.unwrap();
        let at = self.under_way.iter().position(|(of, _)| *of == token);
        let (_, mut request) = self.under_way.swap_remove(at.expect("one of ours"));
        request.complete(driver, token).unwrap();
        request
    }
}

/// Requests that do not overlap, two of three of them writes.
fn batch(round: u64) -> Vec<Request> {
    (0..ENTRIES)
        .map(|index| {
            let (sector, count) = (
                60 * index + usize::try_from(round % 8).unwrap(),
                1 + 3 * index,
            );
            if (round + index as u64).is_multiple_of(3) {
                return Request::read(sector, count);
            }
            let seed = 100 * round + index as u64;
            Request::write(sector, bytes(seed, 512 * count as u64))
        })
        .collect()
}

#[test]
fn each_request_in_flight_gets_its_own_bytes() {
    for disk in disks() {
        let mut machine = Machine::new(disk);
        let mut driver = machine.driver();
        // Without tables of descriptors, each request takes three entries.
        let most = match disk.0.withheld & feature::INDIRECT_DESC {
            0 => ENTRIES,
            _ => ENTRIES / 3,
        };
        for round in 0..12 {
            let mut flight = Flight::default();
            for request in batch(round) {
                let asked = flight.under_way.len();
                if !flight.add(&mut driver, request) {
                    assert!(asked >= most, "{disk:?}");
                    break;
                }
            }
            while !flight.under_way.is_empty() {
                let request = flight.land(&machine, &mut driver);
                if request.writes {
                    machine.note(request.sector, &request.data);
                } else {
                    let expected = machine.at(request.sector, request.data.len());
                    assert!(request.data == expected, "{disk:?}");
                }
            }
            machine.check_image();
        }
        drop(driver);
        assert_eq!(pages::taken(), 0);
    }
}

#[test]
fn an_interrupt_comes_for_what_the_driver_waits_for_and_says_why() {
    for disk in disks() {
        let machine = Machine::new(disk);
        let mut driver = machine.driver();
        for round in 0..20 {
            let before = machine.board.edges.count();
            let mut flight = Flight::default();
            flight.add(&mut driver, Request::read(round, 1));
            machine
                .board
                .edges
                .wait_until(|| machine.board.edges.count() > before);
            assert!(driver.ack_interrupt() == InterruptStatus::QUEUE_INTERRUPT);
            assert!(driver.ack_interrupt() == InterruptStatus::empty());
            let request = flight.land(&machine, &mut driver);
            assert_eq!(request.data, machine.at(round, 512));
            assert_eq!(machine.board.edges.count(), before + 1);
        }
    }
}

#[test]
fn an_old_way_to_say_who_looks_works_too() {
    for mut disk in disks() {
        disk.0.withheld |= feature::EVENT_IDX;
        let mut machine = Machine::new(disk);
        let mut bell = ManuallyDrop::new(machine.wire());
        let mut driver = machine.driver();
        for round in 0..20 {
            let mut flight = Flight::default();
            let data = bytes(round, 512);
            flight.add(&mut driver, Request::write(5, data.clone()));
            flight.add(&mut driver, Request::read(6, 7));
            // Whether to ring, the crate asks before what it added is surely to be seen.
            fence(Ordering::SeqCst);
            bell.notify(0);
            for _ in 0..2 {
                flight.land(&machine, &mut driver);
            }
            machine.note(5, &data);
            machine.check_image();
        }
    }
}

#[test]
fn the_rings_go_on_when_their_indices_begin_again() {
    for disk in disks() {
        let (way, _) = disk;
        if way.withheld != 0 || !way.rings_without_exit || !matches!(way.place, Where::Mmio) {
            continue;
        }
        let machine = Machine::new(disk);
        let mut bell = ManuallyDrop::new(machine.wire());
        let mut driver = machine.driver();
        for round in 0..=(1 << 16) / ENTRIES {
            let mut flight = Flight::default();
            for index in 0..ENTRIES {
                let sector = (round + index) % 1000;
                assert!(flight.add(&mut driver, Request::read(sector, 1)));
            }
            // Where indices begin again, the crate compares them as if they did not.
            fence(Ordering::SeqCst);
            bell.notify(0);
            while !flight.under_way.is_empty() {
                let request = flight.land(&machine, &mut driver);
                assert_eq!(request.data, machine.at(request.sector, 512));
            }
        }
    }
}

#[test]
fn a_second_driver_takes_over_from_one_that_left_and_one_that_died() {
    for disk in disks() {
        let mut machine = Machine::new(disk);
        drop(machine.driver());
        let mut driver = machine.driver();
        // What is in flight ends before the reset does, or never begins: here, all of it is the same either way.
        let mut flight = Flight::default();
        for index in 0..5 {
            flight.add(&mut driver, Request::read(index, 100));
            let data = machine.at(200 * index, 512 * 100).to_vec();
            flight.add(&mut driver, Request::write(200 * index, data));
        }
        mem::forget(driver);
        machine.wire().set_status(DeviceStatus::empty());
        pages::abandon();
        let requests = machine.counters.requests.get();

        let mut driver = machine.driver();
        let data = bytes(9, 512 * 300);
        driver.write_blocks(500, &data).unwrap();
        machine.note(500, &data);
        let mut read = vec![0; data.len()];
        driver.read_blocks(500, &mut read).unwrap();
        assert!(read == data, "{disk:?}");
        assert_eq!(machine.counters.requests.get(), requests + 2);
        drop(driver);
        assert!(pages::abandoned() > 0);
        assert_eq!(pages::taken(), 0);
        machine.check_image();
    }
}
