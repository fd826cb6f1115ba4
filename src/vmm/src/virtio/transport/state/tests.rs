//! States of devices, as they were saved and as nobody would save them.
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use serde_json::{Value, json};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::super::{status, tests::Notes};
use crate::{
    testing::{
        virtio_driver::{Attached, Way},
        virtqueue::{DriverQueue, Edges},
    },
    virtio::{feature, queue::Chain},
};

const WAYS: [Way; 2] = [Way::Mmio, Way::Pci];

struct Bench {
    device: Arc<Mutex<Notes>>,
    edges: Arc<Edges>,
    attached: Attached,
    queues: [DriverQueue; 2],
    memory: GuestMemoryMmap,
}

impl Bench {
    /// A device that nobody has found yet.
    fn new(way: Way) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        Self::on(way, memory)
    }

    fn on(way: Way, memory: GuestMemoryMmap) -> Self {
        let device = Arc::new(Mutex::new(Notes::new()));
        let edges = Arc::new(Edges::default());
        Self {
            attached: Attached::new(way, device.clone(), &memory, &edges),
            device,
            edges,
            queues: [0x1_0000, 0x2_0000].map(|at| DriverQueue::new(memory.clone(), at, 64)),
            memory,
        }
    }

    /// One that runs, with both of its queues: each has given one request back.
    fn running(way: Way) -> Self {
        let mut bench = Self::new(way);
        bench.attached.prepare(2);
        bench.agree();
        for (queue, index) in bench.queues.iter().zip(0..) {
            bench.attached.set_up(index, &queue.setup());
        }
        bench.attached.step(status::DRIVER_OK);
        for queue in &mut bench.queues {
            queue.offer(&[(0x100, 16)], &[]);
        }
        bench.serve();
        bench
    }

    fn agree(&self) {
        self.attached.step(status::ACKNOWLEDGE);
        self.attached.step(status::DRIVER);
        for half in 0..2 {
            let features = feature::COMMON | 1 << 9;
            let bits = u32::try_from(features >> (32 * half) & 0xffff_ffff).unwrap();
            self.attached.accept(half, bits);
        }
        self.attached.step(status::FEATURES_OK);
    }

    /// Gives back what is offered; how many that were.
    fn serve(&self) -> usize {
        let mut device = self.device.lock().unwrap();
        let (interrupt, queues) = (device.interrupt.clone(), &mut device.queues);
        let mut chain = Chain::default();
        let mut served = 0;
        for queue in queues.iter_mut().flatten().flatten() {
            while let Ok(true) = queue.pop(&mut chain) {
                let _ = queue.push(chain.head, 0);
                served += 1;
            }
        }
        if let Some(interrupt) = interrupt {
            interrupt.used_buffers(0);
        }
        served
    }

    fn save(&self) -> Value {
        serde_json::from_str(&self.attached.save()).unwrap()
    }

    fn restore(&self, saved: &Value) -> Result<(), String> {
        self.attached.restore(&saved.to_string())
    }
}

/// What every transport's state has in it.
fn device(saved: &mut Value) -> &mut Value {
    let saved = match saved.get("Mmio") {
        Some(_) => &mut saved["Mmio"],
        None => &mut saved["Pci"][0],
    };
    &mut saved["device"]
}

#[test]
fn what_is_restored_is_what_was_saved() {
    for way in WAYS {
        let saved = Bench::running(way).save();
        let other = Bench::new(way);
        other.restore(&saved).unwrap();
        assert_eq!(other.save(), saved);
        // It looks for itself, and the driver does.
        assert!(other.device.lock().unwrap().was_rung());
        assert!(other.edges.count() > 0);
        // So is what somebody has used before.
        let other = Bench::running(way);
        other.device.lock().unwrap().interrupt = None;
        other.restore(&saved).unwrap();
        assert_eq!(other.save(), saved);
        assert_eq!(other.device.lock().unwrap().resets, 1);
    }
}

#[test]
fn what_was_agreed_on_holds_for_the_queues() {
    for way in WAYS {
        let mut bench = Bench::running(way);
        let other = Bench::on(way, bench.memory.clone());
        other.restore(&bench.save()).unwrap();
        // The driver has not asked for an interrupt since the first request came back: with EVENT_IDX it gets none.
        bench.queues[0].offer(&[(0x100, 16)], &[]);
        let mut device = other.device.lock().unwrap();
        let queue = device.queues.as_mut().unwrap()[0].as_mut().unwrap();
        let mut chain = Chain::default();
        assert_eq!(queue.pop(&mut chain), Ok(true));
        queue.push(chain.head, 0).unwrap();
        assert_eq!(queue.wants_interrupt(), Ok(false));
    }
}

#[test]
fn a_device_that_nobody_has_found_is_not_woken() {
    for way in WAYS {
        let saved = Bench::new(way).save();
        let other = Bench::running(way);
        other.restore(&saved).unwrap();
        assert_eq!(other.save(), saved);
        assert!(other.device.lock().unwrap().queues.is_none());
        assert!(other.attached.bells().connected().is_empty());
        let other = Bench::new(way);
        other.restore(&saved).unwrap();
        assert_eq!(other.edges.count(), 0);
        assert!(!other.device.lock().unwrap().was_rung());
    }
}

#[test]
fn a_device_that_never_got_its_queues_still_needs_a_reset() {
    for way in WAYS {
        let bench = Bench::new(way);
        bench.attached.prepare(2);
        bench.agree();
        let nowhere = DriverQueue::new(GuestMemoryMmap::default(), 1 << 30, 64);
        bench.attached.set_up(0, &nowhere.setup());
        let broken = bench.attached.step(status::DRIVER_OK);
        assert_ne!(broken & status::NEEDS_RESET, 0);
        let saved = bench.save();
        let other = Bench::new(way);
        other.restore(&saved).unwrap();
        assert_eq!(other.attached.status(), broken);
        assert!(other.device.lock().unwrap().queues.is_none());
        assert_eq!(other.save(), saved);
    }
}

#[test]
fn a_driver_hears_that_its_device_is_configured_otherwise() {
    for way in WAYS {
        let mut saved = Bench::running(way).save();
        let other = Bench::new(way);
        other.device.lock().unwrap().change_config();
        other.restore(&saved).unwrap();
        let mut restored = other.save();
        let (restored, saved) = (device(&mut restored), device(&mut saved));
        assert_ne!(restored["config"], saved["config"]);
        assert_eq!(
            restored["generation"].as_u64(),
            saved["generation"]
                .as_u64()
                .map(|generation| generation + 1)
        );
        assert_eq!(
            (&saved["reasons"], &restored["reasons"]),
            (&json!(1), &json!(3))
        );
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    type Spoil = fn(&mut Value);
    let spoils: &[(Spoil, &str)] = &[
        (
            |state| state["kind"] = json!(1),
            "is of type 1, this one of type 2",
        ),
        (
            |state| state["own"] = json!({"block": {"limiter": {}, "lost": true}}),
            "another kind of device's",
        ),
        (|state| state["own"] = json!("something"), "unknown variant"),
        (
            |state| state["config"] = json!([1]),
            "1 bytes of configuration, this one 5",
        ),
        (
            |state| state["queues"] = json!([]),
            "has 0 queues, this one 2",
        ),
        (
            |state| state["queues"][1]["setup"]["max_size"] = json!(64),
            "queue 1 of the saved device has 64 entries, of this one 128",
        ),
        (
            |state| state["accepted"] = json!(feature::VERSION_1 | 6),
            "the features 0x6",
        ),
        (
            |state| state["accepted"] = json!(0),
            "older than virtio 1.0",
        ),
        (|state| state["astray"] = json!(true), "out of turn"),
        (|state| state["status"] = json!(0x1f), "unknown bits"),
        (|state| state["status"] = json!(13), "out of turn"),
        (|state| state["status"] = json!(7), "ready without features"),
        (
            |state| state["status"] = json!(11),
            "before its driver is ready",
        ),
        (
            |state| state["active"] = json!(false),
            "neither runs nor is broken",
        ),
        (|state| state["reasons"] = json!(4), "unknown reasons"),
        (
            |state| state["queues"][1]["progress"] = json!(null),
            "nothing says",
        ),
        (
            |state| state["queues"][1]["progress"]["next_used"] = json!(2),
            "queue 1 of the saved device cannot be",
        ),
        (
            |state| state["queues"][0]["setup"]["used"] = json!(1 << 20),
            "queue 0 of the saved device cannot be",
        ),
        (
            |state| state["queues"][0]["setup"]["size"] = json!(128),
            "queue 0 of the saved device cannot be",
        ),
        (
            |state| state["queues"][0]["setup"]["ready"] = json!(false),
            "queue 0 of the saved device cannot be",
        ),
        (|state| state["more"] = json!(1), "unknown field"),
    ];
    for way in WAYS {
        let saved = Bench::running(way).save();
        for (spoil, why) in spoils {
            let mut spoilt = saved.clone();
            spoil(device(&mut spoilt));
            refuses(way, &spoilt, why);
        }
        // What is in use before a driver is ready.
        let mut spoilt = Bench::new(way).save();
        device(&mut spoilt)["queues"][0]["progress"] = json!({"next_available": 0, "next_used": 0});
        refuses(way, &spoilt, "uses queues before");
    }
    let saved = Bench::running(Way::Pci).save();
    refuses(Way::Mmio, &saved, "another transport's");
    let spoils: &[(Spoil, &str)] = &[
        (
            |state| state["table"] = json!([]),
            "0 interrupt vectors, this one 3",
        ),
        (
            |state| state["vectors"]["queues"] = json!([1]),
            "vectors that are not",
        ),
        (
            |state| state["vectors"]["configuration"] = json!(3),
            "vectors that are not",
        ),
        (|state| state["space"] = json!([1]), "1 bytes, not 256"),
        (|state| state["space"][2] = json!(1), "byte 0x2 of"),
    ];
    for (spoil, why) in spoils {
        let mut spoilt = saved.clone();
        spoil(&mut spoilt["Pci"][0]);
        refuses(Way::Pci, &spoilt, why);
    }
}

/// Neither a new device nor one that runs takes `spoilt`.
fn refuses(way: Way, spoilt: &Value, why: &str) {
    for bench in [Bench::new(way), Bench::running(way)] {
        let before = bench.save();
        let refused = bench.restore(spoilt).unwrap_err();
        assert!(refused.contains(why), "{refused}, not: {why}");
        assert_eq!(bench.save(), before);
        assert_eq!(bench.device.lock().unwrap().resets, 0);
    }
}

/// Every place in `value`, as a JSON pointer.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                places(value, &format!("{at}/{index}"), found);
            }
        }
        Value::Object(values) => {
            for (key, value) in values {
                places(value, &format!("{at}/{key}"), found);
            }
        }
        _ => {}
    }
}

/// Something else in the place of `value`.
fn spoil(value: &mut Value, how: usize, number: u64) {
    *value = match (how, value.take()) {
        (0, Value::Number(old)) => json!(old.as_u64().unwrap_or(0) ^ 1 << (number % 64)),
        (1, Value::Number(old)) => json!(old.as_u64().unwrap_or(0).wrapping_add(number % 5)),
        (2, Value::Array(mut values)) => {
            values.truncate(usize::try_from(number % 5).unwrap());
            Value::Array(values)
        }
        (3, Value::Array(values)) => Value::Array([values.clone(), values].concat()),
        (_, Value::Bool(old)) => json!(!old),
        (4, _) => Value::Null,
        (5, _) => json!({"next_available": number & 0xffff, "next_used": number >> 16 & 0xffff}),
        (6, _) => json!(number & 0xffff),
        _ => json!(number),
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// A state in which anything is something else: it is refused or the device works, and a driver can start it over.
    #[test]
    fn any_state_is_taken_or_refused(
        pci in any::<bool>(),
        running in any::<bool>(),
        spoils in proptest::collection::vec((any::<prop::sample::Index>(), 0..8usize, any::<u64>()), 1..5),
    ) {
        let way = if pci { Way::Pci } else { Way::Mmio };
        let mut saved = if running { Bench::running(way) } else { Bench::new(way) }.save();
        for (index, how, number) in spoils {
            let mut found = Vec::new();
            places(&saved, "", &mut found);
            let place = saved.pointer_mut(&found[index.index(found.len())]);
            spoil(place.unwrap(), how, number);
        }
        let bench = Bench::new(way);
        let before = bench.save();
        match bench.restore(&saved) {
            Ok(()) => {
                bench.attached.ring(0);
                prop_assert!(bench.serve() <= 64 + 128);
                let ready = status::DRIVER_OK | status::NEEDS_RESET;
                let up = bench.attached.status() & ready;
                if way == Way::Mmio && up == status::DRIVER_OK {
                    prop_assert!(bench.device.lock().unwrap().queues.is_some());
                }
            }
            // The bridge comes behind its functions.
            Err(_) if way == Way::Mmio => prop_assert_eq!(bench.save(), before),
            Err(_) => {}
        }
        bench.attached.prepare(2);
        bench.attached.set_status(0);
        bench.agree();
        prop_assert_ne!(bench.attached.status() & status::FEATURES_OK, 0);
    }

    /// Whatever a driver does, and wherever it has got to: the device can be saved, and what was saved fits.
    #[test]
    fn any_driver_s_device_moves(
        pci in any::<bool>(),
        start in 0..3usize,
        traffic in proptest::collection::vec(
            (prop_oneof![(0..0x60u64).prop_map(|word| word * 4), 0..0x60u64, 0x3000..0x3030u64], 1..9usize, any::<[u8; 8]>(), 0..4u8),
            0..60,
        ),
    ) {
        let way = if pci { Way::Pci } else { Way::Mmio };
        let bench = match start {
            0 => Bench::new(way),
            1 => {
                let bench = Bench::new(way);
                bench.attached.prepare(2);
                bench.agree();
                bench
            }
            _ => Bench::running(way),
        };
        for (offset, length, mut data, kind) in traffic {
            if kind < 2 {
                data[1..].fill(0);
            }
            if kind == 3 {
                let [a, b, c, d, ..] = data;
                bench.attached.poke_config(u32::try_from(offset).unwrap(), u32::from_le_bytes([a, b, c, d]));
            } else {
                bench.attached.poke(offset, &data[..length]);
            }
        }
        let mut saved = bench.save();
        let other = Bench::new(way);
        prop_assert_eq!(other.restore(&saved), Ok(()), "{}", saved);
        let mut restored = other.save();
        // It may have been told once more that there is something.
        for saved in [&mut saved, &mut restored] {
            let device = device(saved);
            device["reasons"] = json!(0);
            // The one byte that the driver writes is the device's own to keep, and this one keeps nothing.
            device["config"][4] = json!(0);
            device["generation"] = json!(0);
            for vector in saved.pointer_mut("/Pci/0/table").and_then(Value::as_array_mut).into_iter().flatten() {
                vector["pending"] = json!(false);
            }
        }
        prop_assert_eq!(restored, saved);
    }

    /// Bytes that are no state at all.
    #[test]
    fn any_bytes_are_refused_or_taken(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        for way in WAYS {
            let mut saved = Bench::running(way).attached.save().into_bytes();
            let at = at.index(saved.len());
            saved[at] = byte;
            if cut {
                saved.truncate(at);
            }
            let _ = Bench::new(way).attached.restore(&String::from_utf8_lossy(&saved));
        }
    }
}
