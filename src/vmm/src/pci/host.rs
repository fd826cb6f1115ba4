use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use super::{CONFIG_BYTES, ConfigSpace, Function, Identity, Misfit, Placement, Space};
use crate::{
    arch::x86_64::layout,
    bus::{Outcome, Registers},
};

/// Slots of a bus, and functions of a slot.
pub(super) const SLOTS: usize = 32;
const FUNCTIONS: usize = 8;
/// "Device and function": how configuration accesses name a place.
const PLACES: usize = SLOTS * FUNCTIONS;

/// A bus with a host bridge, which is the function 00:00.0.
pub struct Host {
    bridge: Arc<Bridge>,
    /// By place. What has come stays.
    functions: Vec<OnceLock<Arc<dyn Function>>>,
    /// Where each function wants to answer. Configuration accesses come one at a time, as on a real bus, and nothing else changes this.
    placed: Mutex<BTreeMap<usize, Vec<Placement>>>,
    routes: RwLock<Routes>,
    /// The register at port 0xcf8: which configuration register its neighbour is.
    selected: AtomicU32,
}

/// The host bridge's state, version 1: without the functions behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostState {
    selected: u32,
    space: Vec<u8>,
}

/// Who answers where, sorted by address.
#[derive(Default)]
struct Routes {
    ports: Vec<Route>,
    memory: Vec<Route>,
}

struct Route {
    range: Range<u64>,
    place: usize,
    bar: u8,
}

impl Routes {
    fn of(&self, space: Space) -> &[Route] {
        match space {
            Space::Ports => &self.ports,
            Space::Memory => &self.memory,
        }
    }

    /// Those of functions that want to answer where `placed` says. Where several want to, the first does.
    fn new(placed: &BTreeMap<usize, Vec<Placement>>) -> Self {
        let mut routes = Self::default();
        for (&place, placements) in placed {
            for Placement { bar, space, range } in placements.iter().cloned() {
                let routes = match space {
                    Space::Ports => &mut routes.ports,
                    Space::Memory => &mut routes.memory,
                };
                let at = routes.partition_point(|route| route.range.start < range.start);
                let clear = (at == 0 || routes[at - 1].range.end <= range.start)
                    && (routes.get(at)).is_none_or(|next| range.end <= next.range.start);
                if clear {
                    routes.insert(at, Route { range, place, bar });
                }
            }
        }
        routes
    }
}

impl Host {
    /// Where the `index`th function but the host bridge sits: in slots 1 to 31, then as these slots' further functions.
    ///
    /// # Panics
    /// When the bus is full.
    pub fn place(index: usize) -> usize {
        let slots = SLOTS - 1;
        let (function, slot) = (index / slots, 1 + index % slots);
        assert!(function < FUNCTIONS);
        slot * FUNCTIONS + function
    }

    /// The slot of the `index`th function.
    pub fn slot(index: usize) -> usize {
        Self::place(index) / FUNCTIONS
    }

    /// Whether the slot of the `index`th of `count` functions holds others as well.
    pub fn is_shared(index: usize, count: usize) -> bool {
        index >= SLOTS - 1 || index + SLOTS - 1 < count
    }

    /// A bus with `functions`, each at its [`place`](Self::place).
    ///
    /// # Panics
    /// When there are more than fit.
    pub fn new(functions: Vec<Arc<dyn Function>>) -> Self {
        let mut places: Vec<OnceLock<Arc<dyn Function>>> = vec![OnceLock::new(); PLACES];
        let mut placed = BTreeMap::new();
        let bridge = Arc::new(Bridge::new());
        places[0] = OnceLock::from(bridge.clone() as Arc<dyn Function>);
        for (index, function) in functions.into_iter().enumerate() {
            let place = Self::place(index);
            placed.insert(place, function.placements());
            places[place] = OnceLock::from(function);
        }
        Self {
            bridge,
            functions: places,
            routes: RwLock::new(Routes::new(&placed)),
            placed: Mutex::new(placed),
            selected: AtomicU32::new(0),
        }
    }

    /// Puts `function` at the place of the `index`th, while the guest runs; false where one is already. Nobody tells the guest.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn insert(&self, index: usize, function: Arc<dyn Function>) -> bool {
        let place = Self::place(index);
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        let placements = function.placements();
        let inserted = self.functions[place].set(function).is_ok();
        if inserted {
            placed.insert(place, placements);
            self.route(&placed);
        }
        inserted
    }

    fn function(&self, place: usize) -> Option<&dyn Function> {
        self.functions.get(place)?.get().map(Arc::as_ref)
    }

    /// The bridge's registers, while no vCPU runs.
    pub fn save(&self) -> HostState {
        HostState {
            selected: self.selected.load(Ordering::Acquire),
            space: self.bridge.lock().save(),
        }
    }

    /// Becomes what was saved of another. Behind its functions, which answer from then on where their own states put them.
    ///
    /// # Errors
    /// When it does not fit: then everything is as before.
    pub fn restore(&self, saved: &HostState) -> Result<(), Misfit> {
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut space = self.bridge.lock();
            *space = space.restored(&saved.space)?;
        }
        self.selected.store(saved.selected, Ordering::Release);
        for (&place, placements) in placed.iter_mut() {
            if let Some(function) = self.function(place) {
                *placements = function.placements();
            }
        }
        self.route(&placed);
        Ok(())
    }

    fn route(&self, placed: &BTreeMap<usize, Vec<Placement>>) {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        *routes = Routes::new(placed);
    }

    /// A read of the configuration register `offset` at `place`. Where nobody sits, `data` stays as it is.
    fn read_config(&self, place: usize, offset: usize, data: &mut [u8]) {
        let _alone = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = self.function(place) {
            if offset + data.len() <= CONFIG_BYTES {
                function.read_config(offset, data);
            } else {
                data.fill(0);
            }
        }
    }

    fn write_config(&self, place: usize, offset: usize, data: &[u8]) {
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = self.function(place)
            && offset + data.len() <= CONFIG_BYTES
            && function.write_config(offset, data)
        {
            placed.insert(place, function.placements());
            self.route(&placed);
        }
    }

    /// Who answers `length` bytes at `address` of `space`: with which of its base address registers, and at which offset of that.
    fn find(&self, space: Space, address: u64, length: usize) -> Option<(&dyn Function, u8, u64)> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        let routes = routes.of(space);
        let after = routes.partition_point(|route| route.range.start <= address);
        let route = routes.get(after.checked_sub(1)?)?;
        let end = address.checked_add(u64::try_from(length).ok()?)?;
        let function = self.function(route.place)?;
        (end <= route.range.end).then(|| (function, route.bar, address - route.range.start))
    }

    /// The place and the offset that the register at 0xcf8 selects, when it selects any on this bus.
    fn selected(&self) -> Option<(usize, usize)> {
        const ENABLE: u32 = 1 << 31;
        let selected = self.selected.load(Ordering::Acquire);
        let [register, place, bus, _] = selected.to_le_bytes();
        let register = usize::from(register & !3);
        (selected & ENABLE != 0 && bus == 0).then_some((usize::from(place), register))
    }
}

/// Configuration by ports (§3.2.2.3.2): 0xcf8 selects, 0xcfc is what was selected.
pub struct ConfigPorts(pub Arc<Host>);

/// Size of the first register, which has no effect of its own.
pub const SELECT_BYTES: u32 = 4;
/// Where the selected register is, from the first.
const DATA: u64 = SELECT_BYTES as u64;

impl Registers for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match offset.checked_sub(DATA) {
            Some(byte) => {
                if let (Some((place, register)), Ok(byte)) =
                    (self.0.selected(), usize::try_from(byte))
                {
                    self.0.read_config(place, register + byte, data);
                }
            }
            None => {
                if let (0, Ok(data)) = (offset, <&mut [u8; 4]>::try_from(data)) {
                    *data = self.0.selected.load(Ordering::Acquire).to_le_bytes();
                }
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome {
        match offset.checked_sub(DATA) {
            Some(byte) => {
                if let (Some((place, register)), Ok(byte)) =
                    (self.0.selected(), usize::try_from(byte))
                {
                    self.0.write_config(place, register + byte, data);
                }
            }
            None => {
                // Only whole 32-bit writes select: its bytes are other devices' ports.
                if let (0, Ok(bytes)) = (offset, <[u8; 4]>::try_from(data)) {
                    let value = u32::from_le_bytes(bytes);
                    self.0.selected.store(value, Ordering::Release);
                }
            }
        }
        Outcome::Nothing
    }
}

/// Configuration by memory (PCI Express 5.0 §7.2.2): a page per function.
pub struct Ecam(pub Arc<Host>);

/// The place and the register that an offset in the ECAM stands for.
fn in_ecam(offset: u64) -> Option<(usize, usize)> {
    let place = usize::try_from(offset / layout::PCI_ECAM_STRIDE).ok()?;
    let register = usize::try_from(offset % layout::PCI_ECAM_STRIDE).ok()?;
    Some((place, register))
}

impl Registers for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some((place, register)) = in_ecam(offset) {
            self.0.read_config(place, register, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome {
        if let Some((place, register)) = in_ecam(offset) {
            self.0.write_config(place, register, data);
        }
        Outcome::Nothing
    }
}

/// What the host bridge passes on to the bus, of one address space.
pub struct Window(pub Arc<Host>, pub Space);

impl Registers for Window {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let address = self.1.window().start + offset;
        if let Some((function, bar, offset)) = self.0.find(self.1, address, data.len()) {
            function.read(bar, offset, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Outcome {
        let address = self.1.window().start + offset;
        if let Some((function, bar, offset)) = self.0.find(self.1, address, data.len()) {
            function.write(bar, offset, data);
        }
        Outcome::Nothing
    }
}

/// The host bridge: nothing but its name, by which kernels know that there is a bus.
struct Bridge(Mutex<ConfigSpace>);

impl Bridge {
    fn new() -> Self {
        Self(Mutex::new(ConfigSpace::new(Identity {
            // A generic one, of which no kernel knows faults to work around.
            vendor: 0x1b36,
            device: 0x0008,
            revision: 0,
            class: 0x06_0000,
            subsystem: (0, 0),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, ConfigSpace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Function for Bridge {
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        self.lock().read(offset, data);
    }

    fn write_config(&self, offset: usize, data: &[u8]) -> bool {
        self.lock().write(offset, data);
        false
    }

    fn placements(&self) -> Vec<Placement> {
        Vec::new()
    }

    fn read(&self, _: u8, _: u64, _: &mut [u8]) {}

    fn write(&self, _: u8, _: u64, _: &[u8]) {}
}
