//! VM definitions from files: reading, positions of mistakes, suggestions.
//!
//! The way that succeeds is one pass of `serde_json` over the text: it is part of every launch. Only when that fails is the
//! text read again, into a tree that knows where everything stands (`json`), and the definition from that tree (`de`),
//! whose errors are structured and placed; `explain` then puts them into words.
mod de;
mod error;
mod excerpt;
mod explain;
mod json;
mod keys;
mod syntax;

pub use error::{DefinitionError, Mistake};
pub use excerpt::Position;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{OFlags, fcntl_setfl};
use vmm::config::{Definition, object};

/// The JSON schema of a VM definition, generated from its types.
pub const SCHEMA: &str = include_str!("../../../../resources/vm-definition.schema.json");

/// Most bytes of a definition: a thousand times what one needs.
pub const MAX_LEN: usize = 1 << 20;

/// Reads a definition from a file of any readable kind, a pipe included.
///
/// # Errors
/// A file that cannot be read or is a directory, and all that [`parse`] refuses.
pub fn read(path: &Path) -> Result<Definition, DefinitionError> {
    let file = excerpt::escaped(&path.display().to_string());
    let bytes = read_bounded(path).map_err(|source| DefinitionError::Read {
        file: file.clone(),
        source,
    })?;
    parse(&file, &bytes)
}

/// Reads one byte past the limit at most: enough to know that there is more.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    // A shell's `<(command)` is a pipe that is being written, and is waited for. A named pipe that nobody writes is empty:
    // to open it would otherwise wait for ever.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    fcntl_setfl(&file, OFlags::empty())?;
    let mut bytes = Vec::new();
    file.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a definition from `bytes`, which came from the file `name` (named so in errors).
///
/// # Errors
/// Whatever is no JSON text, or no definition, or a definition that cannot be: the first mistake, with its place.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Definition, DefinitionError> {
    if bytes.len() > MAX_LEN {
        return Err(DefinitionError::TooLarge {
            file: name.to_owned(),
        });
    }
    let text = syntax::text(name, bytes)?;
    match from_text(text) {
        Ok(definition) => match definition.validate() {
            Ok(()) => Ok(definition),
            Err(errors) => Err(explain::impossible_values(name, text, &errors).into()),
        },
        Err(error) if error.is_data() => Err(explain::misfit(name, text, &error).into()),
        Err(error) => Err(syntax::mistake(name, text, &error).into()),
    }
}

/// The flag that overrides a key: `--cpus` for `["machine-config", "vcpu_count"]`. For errors about values that came by
/// flags.
#[must_use]
pub fn flag_of(path: &[&str]) -> Option<String> {
    keys::Keys::load().flag(path).map(str::to_owned)
}

fn from_text(text: &str) -> serde_json::Result<Definition> {
    let mut json = serde_json::Deserializer::from_str(text);
    let definition = object(&mut json)?;
    json.end()?;
    Ok(definition)
}

#[cfg(test)]
mod tests;
