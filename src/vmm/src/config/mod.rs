//! The VM definition: plain serde data. No file is opened here, nothing is done.
