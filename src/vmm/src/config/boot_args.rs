//! The kernel's command line: the user's parameters merged over fast defaults.
//!
//! A replacement, as Firecracker does it, silently costs a user who only wanted `quiet` half a second of boot. Here a
//! default goes only when the user names the same parameter, or, of a parameter that is a list, the same part of it. The text is taken apart as the kernel does it
//! (`lib/cmdline.c: next_arg`): quotes may stand anywhere and hide blanks, `-` and `_` in names are the same, and what
//! follows `--` is for init.

use std::borrow::Cow;

use super::Drive;

/// Most bytes of a command line: x86's `COMMAND_LINE_SIZE` of 2048 holds the closing NUL too.
pub const MAX_LEN: usize = 2047;

/// A parameter that is there unless the user gives one of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultArg {
    /// The parameter's name.
    pub key: &'static str,
    /// What follows the `=`, if anything does.
    pub value: Option<Cow<'static, str>>,
    /// How a value of the user's begins that replaces it: every value does with "". The kernel adds up the values of
    /// some parameters, and then only what contradicts ours need replace it.
    pub replaced_by: &'static str,
    /// Why it is there.
    pub reason: &'static str,
}

/// The defaults, in the order in which the kernel sees them.
pub const DEFAULTS: &[DefaultArg] = &[
    DefaultArg {
        key: "console",
        value: Some(Cow::Borrowed("ttyS0")),
        replaced_by: "",
        reason: "the kernel's messages and init's terminal are on the serial port",
    },
    DefaultArg {
        key: "reboot",
        value: Some(Cow::Borrowed("panic_warm")),
        replaced_by: "panic_",
        reason: "a reboot after a panic leaves the warm-boot mark in memory, by which the monitor tells it from a reboot that was wanted",
    },
    DefaultArg {
        key: "panic",
        value: Some(Cow::Borrowed("-1")),
        replaced_by: "",
        reason: "a panic ends the machine at once instead of hanging",
    },
    DefaultArg {
        key: "tsc",
        value: Some(Cow::Borrowed("reliable")),
        replaced_by: "",
        reason: "spares the watchdog that checks the TSC against slower clocks",
    },
    DefaultArg {
        key: "no_timer_check",
        value: None,
        replaced_by: "",
        reason: "spares the check that the timer's interrupt arrives, which is for broken boards",
    },
    DefaultArg {
        key: "cryptomgr.notests",
        value: None,
        replaced_by: "",
        reason: "spares the self-tests of the kernel's ciphers",
    },
    DefaultArg {
        key: "random.trust_cpu",
        value: Some(Cow::Borrowed("on")),
        replaced_by: "",
        reason: "random numbers are ready at once: RDRAND seeds the pool",
    },
    DefaultArg {
        key: "8250.nr_uarts",
        value: Some(Cow::Borrowed("1")),
        replaced_by: "",
        reason: "spares the probes for serial ports that are not there",
    },
];

/// The default of a machine with or without a PCI bus.
#[must_use]
pub fn pci(bus: bool) -> DefaultArg {
    let (value, reason) = if bus {
        (
            "noearly",
            "with a PCI bus: spares the search for faulty boards before the bus is known, up to 16,000 exits on processors whose bridges have quirks",
        )
    } else {
        (
            "off",
            "without a PCI bus: spares the search for one, up to 16,000 exits on processors whose bridges have quirks",
        )
    };
    DefaultArg {
        key: "pci",
        value: Some(Cow::Borrowed(value)),
        replaced_by: if bus { value } else { "" },
        reason,
    }
}

/// The default of a machine whose root is `drive`, its first.
#[must_use]
pub fn root_of(drive: &Drive) -> DefaultArg {
    let device = match &drive.partuuid {
        Some(id) => format!("PARTUUID={id}"),
        None => "/dev/vda".into(),
    };
    let access = if drive.is_read_only { "ro" } else { "rw" };
    DefaultArg {
        key: "root",
        value: Some(format!("{device} {access}").into()),
        replaced_by: "",
        reason: "the root device is the root file system",
    }
}

impl std::fmt::Display for DefaultArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.key)?;
        let value = self.value.as_ref();
        value.map_or(Ok(()), |value| write!(f, "={value}"))
    }
}

/// Why there is no command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootArgsError {
    /// Longer than the kernel reads.
    #[error("the command line is {len} bytes long with the defaults, the kernel takes {MAX_LEN}")]
    TooLong {
        /// Its length, in bytes.
        len: usize,
    },
    /// A control character: the kernel would end the line at a NUL, and readers of `/proc/cmdline` at a newline.
    #[error(
        "{character:?} at byte {at} is a control character (hint: separate parameters with spaces)"
    )]
    ControlCharacter {
        /// The character.
        character: char,
        /// Where it stands, from 0.
        at: usize,
    },
    /// A quote that would swallow whatever is added behind.
    #[error("the quote at byte {at} is not closed")]
    UnclosedQuote {
        /// Where it stands, from 0.
        at: usize,
    },
}

/// Whether a kernel with this command line looks for no PCI bus.
#[must_use]
pub fn turns_pci_off(line: &str) -> bool {
    tokens(line)
        .take_while(|token| !ends_parameters(token))
        .filter(|token| name(token) == "pci")
        .flat_map(values)
        .any(|value| value == "off")
}

/// Merges the user's parameters over [`DEFAULTS`].
///
/// The defaults come first, without those whose name the user gives too; then the user's parameters, all of them, in their
/// order; what follows `--` stays last. Merging twice is merging once.
///
/// # Errors
/// Control characters (but the tab), an open quote, and a result of more than [`MAX_LEN`] bytes.
pub fn merge(user: &str) -> Result<String, BootArgsError> {
    merge_over(DEFAULTS, user)
}

/// As [`merge`], over other defaults.
///
/// # Errors
/// As [`merge`].
pub fn merge_over(defaults: &[DefaultArg], user: &str) -> Result<String, BootArgsError> {
    let control = user
        .char_indices()
        .find(|(_, c)| c.is_ascii_control() && *c != '\t');
    if let Some((at, character)) = control {
        return Err(BootArgsError::ControlCharacter { character, at });
    }
    if !user.matches('"').count().is_multiple_of(2) {
        return Err(BootArgsError::UnclosedQuote {
            at: user.rfind('"').unwrap_or_default(),
        });
    }
    let user: Vec<&str> = tokens(user).collect();
    let parameters = user.iter().take_while(|token| !ends_parameters(token));
    let kept = |default: &DefaultArg| {
        !parameters.clone().any(|token| {
            same_name(name(token), default.key)
                && values(token).any(|value| value.starts_with(default.replaced_by))
        })
    };
    let mut line: Vec<String> = defaults
        .iter()
        .filter(|default| kept(default))
        .map(ToString::to_string)
        .collect();
    line.extend(user.iter().map(ToString::to_string));
    let line = line.join(" ");
    if line.len() > MAX_LEN {
        Err(BootArgsError::TooLong { len: line.len() })
    } else {
        Ok(line)
    }
}

/// The parameters of a command line as the kernel separates them: at blanks outside quotes. Quotes are kept.
pub fn tokens(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |c: char| {
        quoted ^= c == '"';
        !quoted && matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
    })
    .filter(|token| !token.is_empty())
}

/// A parameter's name: what stands before `=`, without the quote that may open it.
#[must_use]
pub fn name(token: &str) -> &str {
    let token = token.strip_prefix('"').unwrap_or(token);
    token.split_once('=').map_or(token, |(name, _)| name)
}

/// The parts of a parameter's value, which commas separate; one empty part when there is none.
fn values(token: &str) -> impl Iterator<Item = &str> {
    let value = token.split_once('=').map_or("", |(_, value)| value);
    value.split(',').map(|part| part.trim_matches('"'))
}

/// Whether a kernel with this command line asks for a warm reset after a panic, and then only: the monitor can tell
/// the two apart by it (Linux `kernel/reboot.c: reboot_setup`).
#[must_use]
pub fn marks_panics(line: &str) -> bool {
    const MODES: &str = "wchsg";
    let (mut after_panic, mut otherwise) = (None, None);
    let parameters = tokens(line).take_while(|token| !ends_parameters(token));
    for value in parameters
        .filter(|token| name(token) == "reboot")
        .flat_map(values)
    {
        let (mode, value) = match value.strip_prefix("panic_") {
            Some(value) => (&mut after_panic, value),
            None => (&mut otherwise, value),
        };
        if let Some(named) = value.chars().next().filter(|c| MODES.contains(*c)) {
            *mode = Some(named);
        }
    }
    after_panic == Some('w') && otherwise != Some('w')
}

fn ends_parameters(token: &str) -> bool {
    matches!(token, "--" | "\"--\"")
}

fn same_name(a: &str, b: &str) -> bool {
    let bytes = |name: &str| {
        name.bytes()
            .map(|byte| if byte == b'-' { b'_' } else { byte })
            .collect::<Vec<_>>()
    };
    bytes(a.trim_end_matches('"')) == bytes(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TWO: &[DefaultArg] = &[
        DefaultArg {
            key: "console",
            value: Some(Cow::Borrowed("ttyS0")),
            replaced_by: "",
            reason: "",
        },
        DefaultArg {
            key: "no_timer_check",
            value: None,
            replaced_by: "",
            reason: "",
        },
    ];

    fn merged(user: &str) -> String {
        merge_over(TWO, user).unwrap()
    }

    #[test]
    fn the_first_disk_is_the_root_unless_another_is_named() {
        let defaults = [root_of(&Drive::new("a", "b"))];
        let over = |user| merge_over(&defaults, user).unwrap();
        assert_eq!(over("quiet"), "root=/dev/vda rw quiet");
        assert_eq!(over("root=LABEL=x quiet"), "root=LABEL=x quiet");
        // What follows is for init.
        assert_eq!(over("-- root=1"), "root=/dev/vda rw -- root=1");
    }

    #[test]
    fn nothing_from_the_user_is_the_defaults() {
        assert_eq!(merged(""), "console=ttyS0 no_timer_check");
        assert_eq!(merged(" \t "), "console=ttyS0 no_timer_check");
        assert_eq!(
            merge("").unwrap(),
            "console=ttyS0 reboot=panic_warm panic=-1 tsc=reliable no_timer_check cryptomgr.notests random.trust_cpu=on 8250.nr_uarts=1"
        );
    }

    #[test]
    fn the_users_parameters_follow_ours_in_their_order() {
        assert_eq!(
            merged("quiet  root=/dev/vda ro"),
            "console=ttyS0 no_timer_check quiet root=/dev/vda ro"
        );
    }

    #[test]
    fn a_parameter_of_the_users_replaces_ours_and_all_of_his_are_kept() {
        assert_eq!(
            merged("console=hvc0 quiet console=tty0"),
            "no_timer_check console=hvc0 quiet console=tty0"
        );
        assert_eq!(merged("console"), "no_timer_check console");
    }

    #[test]
    fn another_way_to_reboot_leaves_the_mark_of_a_panic_alone() {
        let merged = merge("reboot=k panic=1 pci=off").unwrap();
        assert!(merged.contains("reboot=panic_warm "), "{merged}");
        assert!(merged.ends_with(" reboot=k panic=1 pci=off"), "{merged}");
        for own in [
            "reboot=panic_cold",
            "reboot=k,panic_cold",
            "reboot=panic_warm,k",
        ] {
            assert_eq!(merge(own).unwrap().matches("reboot=").count(), 1, "{own}");
        }
    }

    #[test]
    fn a_warm_reset_tells_of_a_panic_unless_every_reset_is_warm() {
        for marked in [
            "",
            "reboot=k",
            "reboot=cold,t",
            "reboot=warm reboot=c",
            "-- reboot=w",
        ] {
            assert!(marks_panics(&merge(marked).unwrap()), "{marked}");
        }
        for other in [
            "reboot=w",
            "reboot=t,warm",
            "reboot=panic_cold",
            "reboot=k,panic_hard",
        ] {
            assert!(!marks_panics(&merge(other).unwrap()), "{other}");
        }
    }

    #[test]
    fn names_are_compared_as_the_kernel_does() {
        assert_eq!(merged("no-timer-check"), "console=ttyS0 no-timer-check");
        assert_eq!(merged("\"console=a b\""), "no_timer_check \"console=a b\"");
        assert_eq!(
            merged("\"no_timer_check\""),
            "console=ttyS0 \"no_timer_check\""
        );
        assert_eq!(
            merged("Console=x"),
            "console=ttyS0 no_timer_check Console=x"
        );
        assert_eq!(
            merged("consoles=x"),
            "console=ttyS0 no_timer_check consoles=x"
        );
    }

    #[test]
    fn quotes_hide_blanks() {
        assert_eq!(
            tokens("a=\"b c\" \"d  e\"f g").collect::<Vec<_>>(),
            ["a=\"b c\"", "\"d  e\"f", "g"]
        );
        assert_eq!(
            merged("dyndbg=\"file a.c +p\""),
            "console=ttyS0 no_timer_check dyndbg=\"file a.c +p\""
        );
    }

    #[test]
    fn arguments_of_init_stay_last_and_replace_nothing() {
        assert_eq!(
            merged("quiet -- console=x -v"),
            "console=ttyS0 no_timer_check quiet -- console=x -v"
        );
        assert_eq!(merged("-- -- a"), "console=ttyS0 no_timer_check -- -- a");
        assert_eq!(
            merged("\"--\" console=x"),
            "console=ttyS0 no_timer_check \"--\" console=x"
        );
        assert_eq!(
            merged("x=\" -- \" console=y"),
            "no_timer_check x=\" -- \" console=y"
        );
    }

    #[test]
    fn what_the_kernel_would_cut_short_or_misread_is_refused() {
        let control = |character, at| Err(BootArgsError::ControlCharacter { character, at });
        assert_eq!(merge("a\0b"), control('\0', 1));
        assert_eq!(merge("quiet\n"), control('\n', 5));
        assert_eq!(merge("a \x7f"), control('\x7f', 2));
        assert_eq!(
            merge("a=\"b c"),
            Err(BootArgsError::UnclosedQuote { at: 2 })
        );
    }

    #[test]
    fn the_line_may_fill_the_kernels_buffer_but_for_the_nul() {
        let longest = "x".repeat(MAX_LEN - "console=ttyS0 no_timer_check ".len());
        assert_eq!(merged(&longest).len(), MAX_LEN);
        assert_eq!(
            merge_over(TWO, &(longest + "x")),
            Err(BootArgsError::TooLong { len: 2048 })
        );
        let message = merge(&"x".repeat(3000)).unwrap_err().to_string();
        assert!(
            message.contains("2047") && message.contains("31"),
            "{message}"
        );
    }

    #[test]
    fn each_default_is_one_parameter_with_a_name_of_its_own() {
        for (index, default) in DEFAULTS.iter().enumerate() {
            assert_eq!(tokens(&default.to_string()).count(), 1);
            assert_eq!(name(&default.to_string()), default.key);
            assert!(
                DEFAULTS[..index]
                    .iter()
                    .all(|other| !same_name(other.key, default.key))
            );
        }
    }

    #[test]
    fn pci_is_off_where_there_is_no_bus_or_the_user_says_so() {
        let over = |bus, user| merge_over(&[pci(bus)], user).unwrap();
        assert_eq!(over(false, "quiet"), "pci=off quiet");
        assert_eq!(over(true, "quiet"), "pci=noearly quiet");
        assert_eq!(over(false, "pci=conf1"), "pci=conf1");
        // The kernel adds these up.
        assert_eq!(over(true, "pci=nomsi"), "pci=noearly pci=nomsi");
        for off in ["pci=off", "pci=nomsi,off quiet", "\"pci=off\""] {
            assert!(turns_pci_off(off), "{off}");
        }
        for on in ["", "pci=conf1", "xpci=off", "-- pci=off", "pci=nooff"] {
            assert!(!turns_pci_off(on), "{on}");
        }
    }

    fn some_line() -> impl Strategy<Value = String> {
        let token = "console=[a-z\"]{0,3}|panic=1|no-timer-check|--|\"--\"|[a-zé\"=. -]{0,9}|tsc|\\PC{0,4}|\t| ";
        proptest::collection::vec(token, 0..12).prop_map(|tokens| tokens.join(" "))
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = merge(&text);
        }

        #[test]
        fn merging_twice_is_merging_once(line in some_line()) {
            if let Ok(once) = merge(&line) {
                prop_assert_eq!(merge(&once), Ok(once));
            }
        }

        #[test]
        fn all_of_the_users_parameters_survive_in_order_behind_ours(line in some_line()) {
            if let Ok(merged) = merge(&line) {
                let user: Vec<&str> = tokens(&line).collect();
                let merged: Vec<&str> = tokens(&merged).collect();
                prop_assert!(merged.ends_with(&user), "{:?} lacks {:?}", merged, user);
                let ours = &merged[..merged.len() - user.len()];
                prop_assert!(ours.iter().all(|token| DEFAULTS.iter().any(|default| default.to_string() == *token)));
            }
        }
    }
}
