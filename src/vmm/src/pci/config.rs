use super::{CONFIG_BYTES, Misfit, Placement, Space};

/// Offsets of the header's registers (§6.1).
mod register {
    pub(super) const VENDOR: usize = 0x00;
    pub(super) const DEVICE: usize = 0x02;
    pub(super) const COMMAND: usize = 0x04;
    pub(super) const STATUS: usize = 0x06;
    pub(super) const REVISION: usize = 0x08;
    pub(super) const CLASS: usize = 0x09;
    pub(super) const CACHE_LINE: usize = 0x0c;
    pub(super) const LATENCY: usize = 0x0d;
    pub(super) const HEADER_TYPE: usize = 0x0e;
    pub(super) const BARS: usize = 0x10;
    pub(super) const SUBSYSTEM_VENDOR: usize = 0x2c;
    pub(super) const SUBSYSTEM: usize = 0x2e;
    pub(super) const CAPABILITIES: usize = 0x34;
    pub(super) const INTERRUPT_LINE: usize = 0x3c;
    /// Where capabilities may be.
    pub(super) const FREE: usize = 0x40;
}

/// Bits of the command register.
mod command {
    pub(super) const PORTS: u8 = 1;
    pub(super) const MEMORY: u8 = 2;
    pub(super) const MASTER: u8 = 4;
    /// Of its upper byte.
    pub(super) const NO_INTX: u8 = 4;
}

const STATUS_HAS_CAPABILITIES: u8 = 1 << 4;
const HEADER_MULTIFUNCTION: u8 = 1 << 7;
/// What Linux sets it to when it is less.
const LATENCY: u8 = 64;
const BARS: usize = 6;

/// What a function says it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Who made it.
    pub vendor: u16,
    /// What it is.
    pub device: u16,
    /// Which version of it.
    pub revision: u8,
    /// Base class, subclass, programming interface: 24 bits.
    pub class: u32,
    /// The same, of the board that it is on.
    pub subsystem: (u16, u16),
}

/// A base address register.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// What it asks for.
    pub space: Space,
    /// How much: a power of two, 4 or more for ports, 16 or more for memory.
    pub size: u32,
    /// Where it is at first, as firmware would have placed it.
    pub address: u32,
}

/// A capability's registers, without the two bytes that link it.
#[derive(Clone, Copy, Debug)]
pub struct Capability<'a> {
    /// What it is.
    pub id: u8,
    /// Its registers at first.
    pub bytes: &'a [u8],
    /// Which of their bits the guest can change; what is missing at the end, it cannot.
    pub writable: &'a [u8],
}

/// The configuration space of one function: bytes, and which of their bits the guest can change.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_BYTES],
    writable: [u8; CONFIG_BYTES],
    bars: [Option<Bar>; BARS],
    /// Where the place of the next capability is to be written, and that place.
    link: usize,
    free: usize,
}

impl ConfigSpace {
    /// That of a function without anything.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; CONFIG_BYTES],
            writable: [0; CONFIG_BYTES],
            bars: [None; BARS],
            link: register::CAPABILITIES,
            free: register::FREE,
        };
        let [interface, subclass, base, _] = identity.class.to_le_bytes();
        space.put(register::VENDOR, &identity.vendor.to_le_bytes());
        space.put(register::DEVICE, &identity.device.to_le_bytes());
        space.put(register::REVISION, &[identity.revision]);
        space.put(register::CLASS, &[interface, subclass, base]);
        space.put(register::LATENCY, &[LATENCY]);
        let (vendor, device) = identity.subsystem;
        space.put(register::SUBSYSTEM_VENDOR, &vendor.to_le_bytes());
        space.put(register::SUBSYSTEM, &device.to_le_bytes());
        space.writable[register::COMMAND] = command::MASTER;
        space.writable[register::COMMAND + 1] = command::NO_INTX;
        for register in [
            register::CACHE_LINE,
            register::LATENCY,
            register::INTERRUPT_LINE,
        ] {
            space.writable[register] = 0xff;
        }
        space
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Says that other functions share its slot.
    pub fn set_multifunction(&mut self) {
        self.bytes[register::HEADER_TYPE] |= HEADER_MULTIFUNCTION;
    }

    /// Gives it base address register `index`. It answers there as soon as the guest enables it: Linux, which finds the sizes
    /// of functions that answer, would disable and enable them once for each of six registers.
    ///
    /// # Panics
    /// When there are only six, or the size is no size: a defect of this program.
    pub fn set_bar(&mut self, index: usize, bar: Bar) {
        let least = match bar.space {
            Space::Ports => 4,
            Space::Memory => 16,
        };
        assert!(bar.size.is_power_of_two() && bar.size >= least);
        let at = register::BARS + 4 * index;
        let (kind, enable) = match bar.space {
            Space::Ports => (1, command::PORTS),
            Space::Memory => (0, command::MEMORY),
        };
        // What is less than the size reads as zeroes, by which a driver finds the size.
        let mask = !(bar.size - 1);
        self.put(at, &(bar.address & mask | kind).to_le_bytes());
        self.writable[at..at + 4].copy_from_slice(&mask.to_le_bytes());
        self.bars[index] = Some(bar);
        self.writable[register::COMMAND] |= enable;
    }

    /// Adds a capability, behind those that are there; where it lies comes back.
    ///
    /// # Panics
    /// When there is no room: a defect of this program.
    pub fn add_capability(&mut self, capability: Capability) -> usize {
        let at = self.free;
        let here = u8::try_from(at).expect("capabilities lie within the space");
        self.bytes[self.link] = here;
        self.bytes[register::STATUS] |= STATUS_HAS_CAPABILITIES;
        self.put(at, &[capability.id, 0]);
        self.put(at + 2, capability.bytes);
        let writable = at + 2..at + 2 + capability.writable.len();
        self.writable[writable].copy_from_slice(capability.writable);
        self.link = at + 1;
        self.free = (at + 2 + capability.bytes.len()).next_multiple_of(4);
        at
    }

    /// Fills `data` from `offset` on; what lies beyond the end is zero.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        let rest = self.bytes.get(offset..).unwrap_or_default();
        for (to, from) in data
            .iter_mut()
            .zip(rest.iter().chain(std::iter::repeat(&0)))
        {
            *to = *from;
        }
    }

    /// Writes what may be written.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let bytes = self.bytes.iter_mut().zip(&self.writable).skip(offset);
        for ((byte, mask), value) in bytes.zip(data) {
            *byte = *byte & !mask | value & mask;
        }
    }

    /// All that is in it.
    pub fn save(&self) -> Vec<u8> {
        self.bytes.to_vec()
    }

    /// This space as it was when `saved` was [saved](Self::save) of it, or of another like it.
    ///
    /// # Errors
    /// When no guest can have made it so.
    pub fn restored(&self, saved: &[u8]) -> Result<Self, Misfit> {
        let length = Misfit::Length(saved.len());
        let bytes = <[u8; CONFIG_BYTES]>::try_from(saved).map_err(|_| length)?;
        for (at, (own, saved)) in self.bytes.iter().zip(&bytes).enumerate() {
            if (own ^ saved) & !self.writable[at] != 0 {
                return Err(Misfit::Byte(at));
            }
        }
        Ok(Self {
            bytes,
            ..self.clone()
        })
    }

    /// The 32 bits at `offset`.
    pub fn word(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Where its base address registers put it, as far as it is told to answer there and the host bridge passes it on.
    pub fn placements(&self) -> Vec<Placement> {
        (0..)
            .zip(&self.bars)
            .filter_map(|(index, bar)| self.placement(index, (*bar)?))
            .collect()
    }

    fn placement(&self, index: u8, bar: Bar) -> Option<Placement> {
        let enable = match bar.space {
            Space::Ports => command::PORTS,
            Space::Memory => command::MEMORY,
        };
        let start = self.word(register::BARS + 4 * usize::from(index)) & !(bar.size - 1);
        let start = u64::from(start);
        let range = start..start + u64::from(bar.size);
        let window = bar.space.window();
        let passed = window.start <= range.start && range.end <= window.end;
        let enabled = self.bytes[register::COMMAND] & enable != 0;
        (enabled && passed).then_some(Placement {
            bar: index,
            space: bar.space,
            range,
        })
    }
}
