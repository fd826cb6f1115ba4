//! The balloon: what `--balloon` says, and the device.
use std::{
    str::FromStr,
    sync::{Arc, Mutex},
};

use vmm::{
    config::{self, MAX_STATS_INTERVAL, size},
    virtio::{
        balloon::{Balloon, Handle, Options},
        transport::SharedDevice,
    },
};

use crate::failure::Failure;

/// `SIZE[,deflate_on_oom][,free_page_reporting][,free_page_hinting][,stats_polling_interval_s=N]`: the options are called as the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalloonArg(pub(super) config::Balloon);

impl FromStr for BalloonArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let size = parts.next().unwrap_or_default();
        let mib = size::parse_mib(size).map_err(|error| error.to_string())?;
        let mut balloon = config::Balloon {
            amount_mib: u32::try_from(mib).map_err(|_| format!("{size}: too much"))?,
            ..config::Balloon::default()
        };
        for part in parts {
            option(&mut balloon, part)?;
        }
        Ok(Self(balloon))
    }
}

fn option(balloon: &mut config::Balloon, text: &str) -> Result<(), String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("deflate_on_oom", "") => balloon.deflate_on_oom = true,
        ("free_page_reporting", "") => balloon.free_page_reporting = true,
        ("free_page_hinting", "") => balloon.free_page_hinting = true,
        ("stats_polling_interval_s", value) => {
            let wrong = |_| format!("{text}: expected a number from 0 to {MAX_STATS_INTERVAL}");
            balloon.stats_polling_interval_s = value.parse().map_err(wrong)?;
        }
        _ => {
            return Err(format!(
                "{text}: no such option (there are deflate_on_oom, free_page_reporting, free_page_hinting, \
                 stats_polling_interval_s=)"
            ));
        }
    }
    Ok(())
}

/// The device that `balloon` describes: for the guest, and for who directs it.
///
/// # Errors
/// When the host has no room for another descriptor.
pub(super) fn open(balloon: &config::Balloon) -> Result<(SharedDevice, Handle), Failure> {
    let device = Balloon::new(Options {
        target_mib: balloon.amount_mib,
        deflate_on_oom: balloon.deflate_on_oom,
        interval: balloon.stats_polling_interval_s,
        hinting: balloon.free_page_hinting,
        reporting: balloon.free_page_reporting,
    });
    let device = device.map_err(|error| Failure::new("balloon", error))?;
    let handle = device.handle();
    Ok((Arc::new(Mutex::new(device)), handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_and_the_names_of_keys_are_taken() {
        let BalloonArg(balloon) = "1G,deflate_on_oom,stats_polling_interval_s=5"
            .parse()
            .unwrap();
        assert_eq!(balloon.amount_mib, 1024);
        assert!(balloon.deflate_on_oom && !balloon.free_page_reporting);
        assert_eq!(balloon.stats_polling_interval_s, 5);
        let BalloonArg(balloon) = "0,free_page_reporting,free_page_hinting".parse().unwrap();
        assert!(balloon.free_page_reporting && balloon.free_page_hinting);
    }

    #[test]
    fn what_is_no_balloon_is_refused() {
        for text in [
            "",
            "lots",
            "1,deflate",
            "1,deflate_on_oom=1",
            "1,stats_polling_interval_s",
            "1,stats_polling_interval_s=-1",
            "8388608T",
        ] {
            assert!(text.parse::<BalloonArg>().is_err(), "{text}");
        }
    }
}
