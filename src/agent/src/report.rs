//! What the agent says, on the console.
use core::fmt::{self, Write};

use crate::sys;

/// Says a line on the console.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::report::line(format_args!($($argument)*))
    };
}

/// Says a line on the console, under the agent's name. Nothing can be done where it cannot be said.
pub fn line(text: fmt::Arguments<'_>) {
    let _ = writeln!(Console, "ampoule-agent: {text}");
}

struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        sys::write_to_console(text.as_bytes()).map_err(|_| fmt::Error)
    }
}
