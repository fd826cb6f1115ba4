//! The programs that come with this one.
use std::{
    env,
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// Where `name` is: beside this program, or in `../libexec/ampoule/`.
///
/// # Errors
/// When it is in neither place.
pub(super) fn find(name: &str) -> Result<PathBuf, Failure> {
    let failed = |why: String| Failure::new(name, why);
    let program = env::current_exe().map_err(|error| failed(error.to_string()))?;
    let directory = program.parent().unwrap_or(Path::new("/"));
    let places = [directory.to_owned(), directory.join("../libexec/ampoule")];
    let found = places.iter().map(|place| place.join(name));
    found
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| {
            let places = places.map(|place| place.display().to_string()).join(" or ");
            failed(format!("it is not in {places}"))
                .hint("it comes with ampoule: install them together")
        })
}
