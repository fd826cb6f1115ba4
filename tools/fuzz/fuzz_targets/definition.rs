//! Any bytes as a VM definition: never a panic, and a refusal can always be shown.
#![no_main]

use ampoule::definition;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = definition::parse("fuzz.json", bytes) {
        assert!(error.to_string().lines().count() <= 5);
    }
});
