#![doc = include_str!("../README.md")]

mod error;
pub mod figure;
mod named;
mod number;
mod page;
mod results;
mod story;
mod summary;
mod text;

pub use error::{Error, Result};
pub use named::Named;
pub use page::render;
pub use results::{
    Arm, Controls, Directions, Dose, Effect, Example, Figure, Judge, Latent, LayerDirection, Measures, ModelId, Real,
    Results, Role, Sae, Sample, Schema, Strength, Target,
};
pub use summary::summary;
