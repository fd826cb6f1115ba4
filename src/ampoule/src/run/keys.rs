//! What a user types on a terminal: the guest's, except for what follows Ctrl-A.
use std::collections::VecDeque;

use vmm::machine::console::Keys;

const CTRL_A: u8 = 1;

const HELP: &str = "\r\n\
    ampoule: Ctrl-A x       quit: kill the guest\r\n\
    ampoule: Ctrl-A h       this help\r\n\
    ampoule: Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n";

/// Splits words to us from words to the guest.
#[derive(Debug, Default)]
pub(super) struct TerminalKeys {
    escaped: bool,
}

impl TerminalKeys {
    /// Takes one byte: for the guest, for us, or the end.
    fn press(&mut self, byte: u8) -> Press {
        if !self.escaped {
            self.escaped = byte == CTRL_A;
            return if self.escaped {
                Press::Nothing
            } else {
                Press::Guest(byte)
            };
        }
        self.escaped = false;
        match byte {
            CTRL_A => Press::Guest(CTRL_A),
            b'x' | b'X' => Press::Quit,
            b'h' | b'H' | b'?' => Press::Help,
            _ => Press::Nothing,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Press {
    Guest(u8),
    Help,
    Quit,
    Nothing,
}

impl Keys for TerminalKeys {
    fn pass(&mut self, typed: &[u8], guest: &mut VecDeque<u8>) -> bool {
        for &byte in typed {
            match self.press(byte) {
                Press::Guest(byte) => guest.push_back(byte),
                Press::Help => eprint!("{HELP}"),
                Press::Quit => return true,
                Press::Nothing => {}
            }
        }
        false
    }

    fn listens(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pass(chunks: &[&[u8]]) -> (Vec<u8>, bool) {
        let (mut keys, mut guest) = (TerminalKeys::default(), VecDeque::new());
        let quit = chunks.iter().any(|chunk| keys.pass(chunk, &mut guest));
        (guest.into(), quit)
    }

    #[test]
    fn ctrl_a_x_quits_even_when_it_comes_in_two_reads() {
        assert_eq!(pass(&[b"ls\x01x"]), (b"ls".to_vec(), true));
        assert_eq!(pass(&[b"\x01", b"x"]), (vec![], true));
    }

    #[test]
    fn ctrl_a_twice_sends_it_once() {
        assert_eq!(pass(&[b"\x01\x01x"]), (b"\x01x".to_vec(), false));
    }

    #[test]
    fn an_unknown_word_to_us_is_not_the_guests() {
        assert_eq!(pass(&[b"a\x01qb"]), (b"ab".to_vec(), false));
    }

    proptest! {
        #[test]
        fn input_without_ctrl_a_passes_unchanged(bytes in proptest::collection::vec(2u8.., 0..100)) {
            prop_assert_eq!(pass(&[&bytes]), (bytes, false));
        }
    }
}
