//! A function's state, in a form that outlives the process.
use serde::{Deserialize, Serialize};

use super::{Pci, common::Selected, vectors::VectorsState};
use crate::{
    pci::msix::Vector,
    virtio::transport::{DeviceState, Misfit},
    worker::NotPaused,
};

/// The state of a device on a PCI bus, version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PciState {
    device: DeviceState,
    selected: Selected,
    vectors: VectorsState,
    /// The table of MSI-X; whether it is enabled stands in the configuration space.
    table: Vec<Vector>,
    /// The configuration space.
    space: Vec<u8>,
}

impl Pci {
    /// The function's registers, and the device under them, which is paused, while no vCPU runs.
    ///
    /// # Errors
    /// When the device is not paused.
    pub fn save(&self) -> Result<PciState, NotPaused> {
        let state = self.lock();
        Ok(PciState {
            device: state.negotiation.save()?,
            selected: state.selected,
            vectors: self.vectors.save(),
            table: self.msix.save(),
            space: state.places.space.save(),
        })
    }

    /// Becomes what was saved of another of the same kind, at the same place of the bus and on the same memory, and goes on there: at
    /// once, or when the device is resumed. The driver is interrupted, so the interrupt controllers are restored before; no vCPU runs.
    /// The [host bridge](crate::pci::Host::restore) is restored behind it, as the guest may have moved the function.
    ///
    /// # Errors
    /// When it does not fit: then everything is as before.
    pub fn restore(&self, saved: &PciState) -> Result<(), Misfit> {
        let mut state = self.lock();
        let state = &mut *state;
        let frozen = state.negotiation.check(&saved.device)?;
        let space = state.places.space.restored(&saved.space)?;
        self.vectors.check(&saved.vectors)?;
        self.msix.check(&saved.table)?;
        let step = state.negotiation.reset();
        self.follow(state, step);
        state.selected = saved.selected;
        state.places.space = space;
        // The messages are there before the device, which may send one as soon as it has its queues.
        self.vectors.restore(&saved.vectors);
        self.msix.restore(&saved.table, state.control());
        let step = state.negotiation.apply(&saved.device, frozen);
        self.follow(state, step);
        state.negotiation.nudge();
        Ok(())
    }
}
