//! The gate that all vCPU threads of a machine stand at before they enter the guest, and return to when asked.
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What the vCPUs shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Wait,
    Run,
    Stop,
}

#[derive(Debug)]
struct State {
    wanted: Wanted,
    /// Threads that are not in the guest.
    outside: usize,
}

/// Opens and shuts for all vCPUs at once. Shut at first.
#[derive(Debug)]
pub struct Gate {
    vcpus: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// A gate for `vcpus` threads, none of which is in the guest.
    pub fn new(vcpus: usize) -> Self {
        let state = State {
            wanted: Wanted::Wait,
            outside: vcpus,
        };
        Self {
            vcpus,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A vCPU thread comes to the gate from outside and waits until it may enter the guest (true) or has to stop (false).
    pub fn enter(&self) -> bool {
        let mut state = self.lock();
        loop {
            match state.wanted {
                Wanted::Run => {
                    state.outside -= 1;
                    return true;
                }
                Wanted::Stop => return false,
                Wanted::Wait => {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }

    /// A vCPU thread has left the guest.
    pub fn leave(&self) {
        self.lock().outside += 1;
        self.changed.notify_all();
    }

    /// A vCPU thread whose guest has ended waits to be told to stop.
    pub fn wait_for_stop(&self) {
        let mut state = self.lock();
        while state.wanted != Wanted::Stop {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets all vCPUs into the guest.
    pub fn open(&self) {
        self.lock().wanted = Wanted::Run;
        self.changed.notify_all();
    }

    /// Calls all vCPUs out of the guest: `kick` must interrupt every one of them. Back when all are out.
    pub fn shut(&self, kick: impl FnOnce()) {
        self.turn_out(Wanted::Wait, kick);
    }

    /// As [`Gate::shut`], for good.
    pub fn stop(&self, kick: impl FnOnce()) {
        self.turn_out(Wanted::Stop, kick);
    }

    fn turn_out(&self, wanted: Wanted, kick: impl FnOnce()) {
        self.lock().wanted = wanted;
        self.changed.notify_all();
        kick();
        let mut state = self.lock();
        while state.outside < self.vcpus {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicUsize, Ordering},
        },
        thread,
    };

    use super::*;

    #[test]
    fn threads_run_while_it_is_open_and_stop_for_good() {
        let gate = Arc::new(Gate::new(3));
        let inside = Arc::new(AtomicUsize::new(0));
        let interrupt = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (gate, inside, interrupt) = (gate.clone(), inside.clone(), interrupt.clone());
                thread::spawn(move || {
                    while gate.enter() {
                        inside.fetch_add(1, Ordering::SeqCst);
                        while !interrupt.load(Ordering::SeqCst) {
                            thread::yield_now();
                        }
                        inside.fetch_sub(1, Ordering::SeqCst);
                        gate.leave();
                    }
                })
            })
            .collect();
        for _ in 0..50 {
            interrupt.store(false, Ordering::SeqCst);
            gate.open();
            while inside.load(Ordering::SeqCst) < 3 {
                thread::yield_now();
            }
            gate.shut(|| interrupt.store(true, Ordering::SeqCst));
            assert_eq!(inside.load(Ordering::SeqCst), 0);
        }
        gate.stop(|| {});
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    }
}
