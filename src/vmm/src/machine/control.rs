//! A machine in the hands of other threads, which cannot touch it: they ask, and its own thread does.
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, Builder},
    time::Duration,
};

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::{
    MachineError, Policy, State,
    requests::{Request, Requests},
    threads::confine_thread,
};
use crate::sandbox::{Filter, Role};

/// Directs a machine from any thread. Clones direct the same machine.
///
/// Each call waits for the machine's thread: it answers as soon as it has done what it is at, and from when the machine is run.
#[derive(Clone, Debug)]
pub struct Control {
    requests: Arc<Requests>,
    end: Arc<EventFd>,
}

/// Why a machine did not do what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    /// There is no guest any more.
    #[error("the guest has ended")]
    Ended,
}

/// What another thread wants of the machine's.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) wish: Wish,
    answer: SyncSender<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Tell,
    Pause,
    Resume,
    PressPowerButton,
    Plug(usize),
}

impl Order {
    /// Tells who asked where in its life the machine is now.
    pub(super) fn answer(&self, state: State) {
        // There is room for the one answer; who asked may be gone.
        let _ = self.answer.try_send(state);
    }
}

impl Control {
    fn new(requests: Arc<Requests>) -> io::Result<Self> {
        let end = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self {
            requests,
            end: Arc::new(end),
        })
    }

    /// What becomes readable when the machine is gone, and stays so.
    pub fn end(&self) -> BorrowedFd<'_> {
        // SAFETY: it is open for as long as this, and nobody closes it.
        unsafe { BorrowedFd::borrow_raw(self.end.as_raw_fd()) }
    }

    /// Where in its life the machine is.
    ///
    /// # Errors
    /// When there is no machine any more.
    pub fn state(&self) -> Result<State, ControlError> {
        self.ask(Wish::Tell)
    }

    /// Takes every vCPU out of the guest, and lets its devices come to rest. No effect on a machine that is paused.
    ///
    /// # Errors
    /// When the guest has ended.
    pub fn pause(&self) -> Result<(), ControlError> {
        self.ask(Wish::Pause).and_then(running)
    }

    /// Lets a paused guest go on. No effect on a machine that runs.
    ///
    /// # Errors
    /// When the guest has ended.
    pub fn resume(&self) -> Result<(), ControlError> {
        self.ask(Wish::Resume).and_then(running)
    }

    /// Presses the guest's power button, and leaves it to the guest what comes of that.
    ///
    /// # Errors
    /// When the guest has ended.
    pub fn press_power_button(&self) -> Result<(), ControlError> {
        self.ask(Wish::PressPowerButton).and_then(running)
    }

    /// Puts spare device number `spare` into its PCI slot, and tells the guest. No effect where it is there already.
    ///
    /// # Errors
    /// When the guest has ended.
    pub fn plug(&self, spare: usize) -> Result<(), ControlError> {
        self.ask(Wish::Plug(spare)).and_then(running)
    }

    fn ask(&self, wish: Wish) -> Result<State, ControlError> {
        let (answer, answered): (SyncSender<State>, Receiver<State>) = sync_channel(1);
        self.requests.put(Request::Ordered(Order { wish, answer }));
        answered.recv().map_err(|_| ControlError::Ended)
    }
}

fn running(state: State) -> Result<(), ControlError> {
    match state {
        State::Stopped => Err(ControlError::Ended),
        State::Created | State::Running | State::Paused => Ok(()),
    }
}

/// A thread beside the machine's that directs it: the server of its control socket, say.
pub struct Attendant {
    /// What the thread is called.
    pub name: &'static str,
    /// What it is for, and so what it may ask of the kernel.
    pub role: Role,
    /// What it does, until the machine is gone ([`Control::end`]): then it has a moment to finish.
    pub work: Box<dyn FnOnce(Control) + Send>,
}

impl Attendant {
    /// What its thread needs besides its stack for libraries.
    const STACK: usize = 256 << 10;

    /// Starts the thread. It confines itself first.
    pub(super) fn start(
        self,
        requests: &Arc<Requests>,
        policy: Policy,
    ) -> Result<Attending, MachineError> {
        let filter = policy.sandbox.then(|| Filter::new(self.role));
        let failed = |what| move |error| MachineError::Host(what, error);
        let control = Control::new(requests.clone()).map_err(failed("event descriptors"))?;
        let end = control.end.clone();
        let (finished, finish) = sync_channel(1);
        let work = self.work;
        let thread = Builder::new()
            .name(self.name.to_owned())
            .stack_size(Self::STACK);
        let started: io::Result<_> = thread.spawn(move || {
            confine_thread(filter.as_ref());
            work(control);
            // There is room for it; the machine may wait no longer.
            let _ = finished.try_send(());
            // The end of a thread takes calls that it has no right to: it ends with its process.
            loop {
                thread::park();
            }
        });
        started.map_err(failed("a thread"))?;
        Ok(Attending { end, finish })
    }
}

/// An attendant at work.
#[derive(Debug)]
pub(super) struct Attending {
    end: Arc<EventFd>,
    finish: Receiver<()>,
}

impl Attending {
    /// How long an attendant may take to finish.
    const MOMENT: Duration = Duration::from_secs(1);

    /// Tells it that the machine is gone, and lets it finish: who asked for the end shall hear that it was heard.
    pub(super) fn dismiss(&self) {
        // It is written to once.
        let _ = self.end.write(1);
        let _ = self.finish.recv_timeout(Self::MOMENT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine's thread that answers one order.
    fn answering(requests: &Arc<Requests>, state: State) -> thread::JoinHandle<Wish> {
        let requests = requests.clone();
        thread::spawn(move || {
            loop {
                if let Some(Request::Ordered(order)) = requests.take() {
                    order.answer(state);
                    return order.wish;
                }
                thread::yield_now();
            }
        })
    }

    #[test]
    fn who_asks_gets_the_machines_answer() {
        let requests = Arc::new(Requests::new().unwrap());
        let control = Control::new(requests.clone()).unwrap();
        let machine = answering(&requests, State::Paused);
        assert_eq!(control.state(), Ok(State::Paused));
        assert_eq!(machine.join().unwrap(), Wish::Tell);
        let machine = answering(&requests, State::Stopped);
        assert_eq!(control.pause(), Err(ControlError::Ended));
        assert_eq!(machine.join().unwrap(), Wish::Pause);
    }

    #[test]
    fn nobody_waits_for_a_machine_that_is_gone() {
        let requests = Arc::new(Requests::new().unwrap());
        let control = Control::new(requests.clone()).unwrap();
        let waiting = thread::spawn({
            let control = control.clone();
            move || control.resume()
        });
        requests.close();
        assert_eq!(waiting.join().unwrap(), Err(ControlError::Ended));
        assert_eq!(control.state(), Err(ControlError::Ended));
    }
}
