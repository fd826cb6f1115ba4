use std::{
    io::{ErrorKind, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use crate::deadline::Deadline;

/// What came out of a stream so far, collected by a thread of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transcript(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// Where the search for the next text begins: behind the last one found.
    searched: usize,
    ended: bool,
}

/// Why a text was not found.
#[derive(Debug)]
pub(crate) enum Missing {
    Ended,
    TimedOut,
}

impl Transcript {
    /// One of a stream, up to its end.
    pub(crate) fn of(stream: impl Read + Send + 'static) -> Self {
        let transcript = Self::default();
        transcript.collect(stream);
        transcript
    }

    /// Begins to read. Errors are an end: a terminal whose last user has gone gives EIO.
    pub(crate) fn collect(&self, mut stream: impl Read + Send + 'static) {
        let own = self.clone();
        thread::spawn(move || {
            let mut chunk = [0; 16 << 10];
            loop {
                match stream.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(count) => own.change(|state| state.bytes.extend(&chunk[..count])),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            own.close();
        });
    }

    /// There is nothing more to come.
    pub(crate) fn close(&self) {
        self.change(|state| state.ended = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `text` behind the last one that was waited for.
    pub(crate) fn wait_for(&self, text: &[u8], deadline: Deadline) -> Result<(), Missing> {
        self.wait_until(deadline, |state| {
            let rest = &state.bytes[state.searched..];
            let at = rest.windows(text.len()).position(|window| window == text)?;
            state.searched += at + text.len();
            Some(())
        })
    }

    /// Waits until there are `count` bytes in all.
    pub(crate) fn wait_for_bytes(&self, count: usize, deadline: Deadline) -> Result<(), Missing> {
        self.wait_until(deadline, |state| (state.bytes.len() >= count).then_some(()))
    }

    /// Waits for the end, then gives everything.
    pub(crate) fn wait_for_end(&self, deadline: Deadline) -> Result<Vec<u8>, Missing> {
        match self.wait_until(deadline, |_| None::<()>) {
            Err(Missing::Ended) => Ok(self.bytes()),
            other => other.map(|()| Vec::new()),
        }
    }

    fn wait_until<T>(
        &self,
        deadline: Deadline,
        mut found: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, Missing> {
        let mut state = self.lock();
        loop {
            if let Some(value) = found(&mut state) {
                return Ok(value);
            }
            if state.ended {
                return Err(Missing::Ended);
            }
            let left = deadline.left().ok_or(Missing::TimedOut)?;
            let waited = self.0.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Everything so far.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// Everything so far, to be shown to whoever reads why a test failed.
    pub(crate) fn shown(&self) -> String {
        const SHOWN: usize = 64 << 10;
        let bytes = self.bytes();
        let start = bytes.len().saturating_sub(SHOWN);
        let text = String::from_utf8_lossy(&bytes[start..]).into_owned();
        match start {
            0 => text,
            _ => format!("[{start} bytes before]\n{text}"),
        }
    }
}
