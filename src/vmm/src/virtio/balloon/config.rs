//! What a driver learns of a balloon before it has one: features, queues, the configuration space (virtio 1.3 §5.5.2 to §5.5.4).
use super::Options;
use crate::virtio::ConfigSpace;

/// Bytes of a page of the balloon's, whatever the guest's own pages are (§5.5.6).
pub(super) const PAGE: u64 = 4096;
/// Pages of the balloon's in a mebibyte.
const PAGES_PER_MIB: u32 = 256;

/// Offset of `num_pages`: how many pages the device wants.
pub(super) const TARGET: usize = 0;
/// Offset of `actual`: how many pages the driver says it gave. The driver writes it.
pub(super) const ACTUAL: usize = 4;
/// Offset of `free_page_hint_cmd_id`: which run of hints the device wants.
pub(super) const COMMAND: usize = 8;
/// Bytes of the space; the last field, `poison_val`, is for a feature that is not offered.
const BYTES: usize = 16;

/// Feature bits (§5.5.3).
pub(super) mod feature {
    pub(in super::super) const STATS_VQ: u64 = 1 << 1;
    pub(in super::super) const DEFLATE_ON_OOM: u64 = 1 << 2;
    pub(in super::super) const FREE_PAGE_HINT: u64 = 1 << 3;
    pub(in super::super) const PAGE_REPORTING: u64 = 1 << 5;
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Pages that the guest gives.
    Inflate,
    /// Pages that it takes back.
    Deflate,
    /// What it tells of its memory.
    Statistics,
    /// Pages that are free during a run of hints.
    Hints,
    /// Pages that are free until it uses them again.
    Reports,
}

/// The features that go with `options`.
pub(super) fn features(options: Options) -> u64 {
    let of = |wanted: bool, feature| if wanted { feature } else { 0 };
    feature::STATS_VQ
        | of(options.deflate_on_oom, feature::DEFLATE_ON_OOM)
        | of(options.hinting, feature::FREE_PAGE_HINT)
        | of(options.reporting, feature::PAGE_REPORTING)
}

/// The queues that there are with `features`, in order. A queue whose feature is missing takes no number (§5.5.2).
pub(super) fn queues(features: u64) -> impl Iterator<Item = Role> {
    let with = move |feature, role| (features & feature != 0).then_some(role);
    [
        Some(Role::Inflate),
        Some(Role::Deflate),
        with(feature::STATS_VQ, Role::Statistics),
        with(feature::FREE_PAGE_HINT, Role::Hints),
        with(feature::PAGE_REPORTING, Role::Reports),
    ]
    .into_iter()
    .flatten()
}

/// The configuration space of a balloon that is to have `target_mib` MiB.
pub(super) fn space(target_mib: u32) -> ConfigSpace {
    let space = ConfigSpace::new(&[0; BYTES]);
    space.put(TARGET, &pages(target_mib).to_le_bytes());
    space
}

/// The pages of so many MiB.
pub(super) fn pages(mib: u32) -> u32 {
    mib.saturating_mul(PAGES_PER_MIB)
}

/// The whole MiB of so many pages.
pub(super) fn mib(pages: u32) -> u32 {
    pages / PAGES_PER_MIB
}

/// The word at `offset` of `space`.
pub(super) fn word(space: &ConfigSpace, offset: usize) -> u32 {
    let mut bytes = [0; 4];
    space.read(u64::try_from(offset).expect("a small number"), &mut bytes);
    u32::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_numbered_without_those_that_are_missing() {
        let roles = |features| queues(features).collect::<Vec<_>>();
        assert_eq!(roles(0), [Role::Inflate, Role::Deflate]);
        assert_eq!(
            roles(feature::PAGE_REPORTING),
            [Role::Inflate, Role::Deflate, Role::Reports]
        );
        assert_eq!(roles(u64::MAX).len(), 5);
    }
}
