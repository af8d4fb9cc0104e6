//! The stages of a run, each one a subcommand too.

pub mod corpus;
pub mod evaluate;
pub mod explain;
pub mod judge;
pub mod organism;
pub mod results;
pub mod steer;
pub mod undo;
