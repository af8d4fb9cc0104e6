//! `--device`: parsed here, because burn's own default panics on a name that it does not know.

use burn::tensor::Device;

use crate::error::{Failure, Result};

/// A device of the grammar, whether this build has it, and the Cargo feature that brings it.
pub struct Choice {
    /// Its name.
    pub name: &'static str,
    /// The Cargo feature.
    pub feature: &'static str,
    /// Whether it was compiled in.
    pub built: bool,
}

/// Every device that the grammar knows.
pub const CHOICES: [Choice; 7] = [
    Choice {
        name: "flex",
        feature: "flex",
        built: cfg!(feature = "flex"),
    },
    Choice {
        name: "ndarray",
        feature: "ndarray",
        built: cfg!(feature = "ndarray"),
    },
    Choice {
        name: "tch",
        feature: "tch",
        built: cfg!(feature = "tch"),
    },
    Choice {
        name: "wgpu",
        feature: "wgpu",
        built: cfg!(feature = "wgpu"),
    },
    Choice {
        name: "vulkan",
        feature: "vulkan",
        built: cfg!(feature = "vulkan"),
    },
    Choice {
        name: "metal",
        feature: "metal",
        built: cfg!(feature = "metal"),
    },
    Choice {
        name: "cuda",
        feature: "cuda",
        built: cfg!(feature = "cuda"),
    },
];

/// The device of this name; `cpu` is flex, an index may follow a colon (`cuda:1`).
pub fn parse(spec: &str) -> Result<Device> {
    let (name, index) = match spec.split_once(':') {
        Some((name, index)) => {
            let wrong = || {
                Failure::usage(format!(
                    "--device {spec}: expected a number after the colon, found `{index}`"
                ))
            };
            (name, index.parse::<usize>().map_err(|_| wrong())?)
        }
        None => (spec, 0),
    };
    let name = if name == "cpu" { "flex" } else { name };
    let Some(choice) = CHOICES.iter().find(|choice| choice.name == name) else {
        let known: Vec<&str> = CHOICES.iter().map(|choice| choice.name).collect();
        return Err(Failure::usage(format!(
            "--device {spec}: expected one of {}, cpu",
            known.join(", ")
        )));
    };
    if index > 0 && !["cuda", "tch"].contains(&name) {
        return Err(Failure::usage(format!("--device {spec}: {name} takes no index")));
    }
    if !choice.built {
        let build = format!("cargo run --release --features {} -- … --device {spec}", choice.feature);
        return Err(Failure::usage(format!("--device {spec}: this build has no {name}")).hint(build));
    }
    Ok(match name {
        #[cfg(feature = "flex")]
        "flex" => Device::flex(),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated)]
        "ndarray" => Device::ndarray(),
        #[cfg(feature = "tch")]
        "tch" if index > 0 => Device::libtorch_cuda(index),
        #[cfg(feature = "tch")]
        "tch" => Device::libtorch(),
        #[cfg(feature = "wgpu")]
        "wgpu" => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "vulkan")]
        "vulkan" => Device::vulkan(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "metal")]
        "metal" => Device::metal(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        "cuda" => Device::cuda(index),
        _ => unreachable!("not built devices were refused above"),
    })
}
