use std::sync::{Arc, Mutex, PoisonError};

use super::worker::Job;
use crate::worker::Desk;

/// Whose turn it is to flush an image: one thread's at a time.
///
/// The host tells of what it failed to write back only once, to the flush that ends first. Were another under way, it would succeed
/// though what it promises is lost, and might be heard of first.
#[derive(Default)]
pub(super) struct Turns(Mutex<Turn>);

#[derive(Default)]
struct Turn {
    taken: bool,
    /// Those who are rung when it ends.
    waiting: Vec<Arc<Desk<Job>>>,
}

impl Turns {
    /// Whether the turn is now the caller's, who ends it when its flush has been judged. If not, `desk` is rung when it is worth asking
    /// again.
    pub(super) fn take(&self, desk: &Arc<Desk<Job>>) -> bool {
        let mut turn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if turn.taken {
            if !turn.waiting.iter().any(|other| Arc::ptr_eq(other, desk)) {
                turn.waiting.push(desk.clone());
            }
            return false;
        }
        turn.taken = true;
        true
    }

    /// The caller's turn is over.
    pub(super) fn end(&self) {
        let mut turn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turn.taken = false;
        for desk in turn.waiting.drain(..) {
            desk.ring();
        }
    }
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Turns")
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EventFd;

    use super::*;

    #[test]
    fn one_has_the_turn_and_the_others_are_rung_once_at_its_end() {
        let desk = || Arc::new(Desk::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()));
        let [first, second, third] = [desk(), desk(), desk()];
        let turns = Turns::default();
        assert!(turns.take(&first));
        for _ in 0..3 {
            assert!(!turns.take(&second) && !turns.take(&third));
        }
        assert!(second.bell().read().is_err());
        turns.end();
        for desk in [&second, &third] {
            assert_eq!(desk.bell().read().unwrap(), 1);
        }
        assert!(turns.take(&third));
        turns.end();
        assert!(first.bell().read().is_err());
    }
}
