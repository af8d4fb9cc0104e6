//! `realign inspect`: what a file or a folder is.

use realign_model::Access;

use super::print;
use crate::args::{Global, InspectArgs};
use crate::error::{Failure, Result};
use crate::inspect;

/// Says what it is; exit code 3 where something is wrong with it.
pub fn run(global: &Global, args: InspectArgs) -> Result<()> {
    let access = if global.no_mmap { Access::Read } else { Access::Map };
    let found = inspect::inspect(&args.path, access)?;
    print(global, &found.text(), &found)?;
    match found.problems.len() {
        0 => Ok(()),
        1 => Err(Failure::check(format!("{}: one problem", args.path.display()))),
        n => Err(Failure::check(format!("{}: {n} problems", args.path.display()))),
    }
}
