#![doc = include_str!("../README.md")]

pub use burn;
pub use realign_attribution as attribution;
pub use realign_core as core;
pub use realign_data as data;
pub use realign_eval as eval;
pub use realign_lora as lora;
pub use realign_model as model;
pub use realign_report as report;
pub use realign_run as run;
pub use realign_sae as sae;
pub use realign_steering as steering;
pub use realign_tensor as tensor;
