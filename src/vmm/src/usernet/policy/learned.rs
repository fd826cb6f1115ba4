//! Addresses that names stand for at present.
use std::{
    collections::{BTreeMap, HashMap, hash_map::RandomState},
    net::IpAddr,
    time::Instant,
};

/// Most of them: the one that was learned longest ago goes for one more.
pub(super) const MAX: usize = 4096;

/// By which rule, which address.
type Key = (u32, IpAddr);

#[derive(Debug)]
pub(super) struct Learned {
    entries: HashMap<Key, Entry>,
    by_age: BTreeMap<u64, Key>,
    next_age: u64,
}

#[derive(Debug)]
struct Entry {
    until: Instant,
    age: u64,
}

impl Learned {
    /// Room for all, if there are rules that will use it.
    pub(super) fn new(used: bool) -> Self {
        // Here, as the thread that uses it may ask the kernel neither for random bytes nor to move what has grown large.
        let (room, random) = (if used { MAX } else { 0 }, RandomState::new());
        Self {
            entries: HashMap::with_capacity_and_hasher(room, random),
            by_age: BTreeMap::new(),
            next_age: 0,
        }
    }

    pub(super) fn holds(&self, rule: u32, address: IpAddr, now: Instant) -> bool {
        let entry = self.entries.get(&(rule, address));
        entry.is_some_and(|entry| now < entry.until)
    }

    /// What was known before is known no shorter for it.
    pub(super) fn insert(&mut self, rule: u32, address: IpAddr, until: Instant) {
        let key = (rule, address);
        let age = self.next_age;
        self.next_age += 1;
        if let Some(entry) = self.entries.get_mut(&key) {
            self.by_age.remove(&entry.age);
            entry.age = age;
            entry.until = entry.until.max(until);
        } else {
            if self.entries.len() >= MAX
                && let Some((_, oldest)) = self.by_age.pop_first()
            {
                self.entries.remove(&oldest);
            }
            self.entries.insert(key, Entry { until, age });
        }
        self.by_age.insert(age, key);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.entries.len(), self.by_age.len());
        self.entries.len()
    }
}
