//! Devices by name: `flex`, `tch:1`, `wgpu`, `remote:localhost:7654`.

use burn::tensor::Device;

/// A device of the grammar, and whether this build has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceChoice {
    /// Its name, which is also the Cargo feature that brings it.
    pub name: &'static str,
    /// Whether it was compiled in.
    pub built: bool,
    /// Whether there can be several, `name:0`, `name:1` and so on.
    pub several: bool,
}

const fn choice(name: &'static str, built: bool, several: bool) -> DeviceChoice {
    DeviceChoice { name, built, several }
}

/// Every device that the grammar knows.
pub const DEVICES: [DeviceChoice; 8] = [
    choice("flex", cfg!(feature = "flex"), false),
    choice("ndarray", cfg!(feature = "ndarray"), false),
    choice("tch", cfg!(feature = "tch"), true),
    choice("wgpu", cfg!(feature = "wgpu"), false),
    choice("vulkan", cfg!(feature = "vulkan"), false),
    choice("metal", cfg!(feature = "metal"), false),
    choice("cuda", cfg!(feature = "cuda"), true),
    choice("remote", cfg!(feature = "remote"), false),
];

/// Why a name is no device here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// There is none of this name.
    #[error("expected one of {known}, cpu; found `{found}`")]
    Unknown {
        /// What was asked for.
        found: String,
        /// The names that there are.
        known: String,
    },
    /// What follows the colon is no number.
    #[error("expected a number after the colon, found `{0}`")]
    Index(String),
    /// There is only one of it.
    #[error("{0} takes no index")]
    Single(&'static str),
    /// This build does not have it.
    #[error("this build has no {0}: it comes with the Cargo feature `{0}`")]
    NotBuilt(&'static str),
    /// A remote device cannot be had.
    #[error("{address}: {reason}")]
    Remote {
        /// Where it was looked for.
        address: String,
        /// What went wrong.
        reason: String,
    },
}

/// The device of this name: one of [`DEVICES`], an index after a colon (`tch:1` is libtorch on CUDA device 1, `tch` on the
/// CPU), or `cpu` for flex. `remote:HOST:PORT` is what `realign device-server` lends there; the environment variable
/// `REALIGN_REMOTE_TOKEN` holds its token.
///
/// # Errors
/// [`DeviceError`]; burn's own default panics on a name that it does not know.
pub fn device(spec: &str) -> Result<Device, DeviceError> {
    #[cfg(feature = "remote")]
    if let Some(address) = spec.strip_prefix("remote:") {
        return crate::remote::borrow(address);
    }
    let (name, index) = match spec.split_once(':') {
        // Not an index but an address, for a build that does not know what to do with it.
        Some(("remote", _)) => ("remote", None),
        Some((name, index)) => {
            let number = index.parse::<usize>();
            (name, Some(number.map_err(|_| DeviceError::Index(index.to_owned()))?))
        }
        None => (spec, None),
    };
    let name = if name == "cpu" { "flex" } else { name };
    let Some(choice) = DEVICES.iter().find(|choice| choice.name == name) else {
        let known = DEVICES.map(|choice| choice.name).join(", ");
        return Err(DeviceError::Unknown {
            found: name.to_owned(),
            known,
        });
    };
    if index.is_some() && !choice.several {
        return Err(DeviceError::Single(choice.name));
    }
    Ok(match choice.name {
        #[cfg(feature = "flex")]
        "flex" => Device::flex(),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated)]
        "ndarray" => Device::ndarray(),
        #[cfg(feature = "tch")]
        #[allow(deprecated)]
        "tch" => match index {
            Some(index) => Device::libtorch_cuda(index),
            None => Device::libtorch(),
        },
        #[cfg(feature = "wgpu")]
        "wgpu" => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "vulkan")]
        "vulkan" => Device::vulkan(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "metal")]
        "metal" => Device::metal(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        "cuda" => Device::cuda(index.unwrap_or(0)),
        #[cfg(feature = "remote")]
        "remote" => {
            return Err(DeviceError::Remote {
                address: spec.to_owned(),
                reason: "expected remote:HOST:PORT".to_owned(),
            });
        }
        missing => return Err(DeviceError::NotBuilt(missing)),
    })
}

/// Whether it is burn's CPU backend, with gradients or without.
#[cfg(feature = "flex")]
pub(crate) fn is_flex(device: &Device) -> bool {
    device.clone().inner() == Device::flex()
}

/// The device that tests run on: `REALIGN_TEST_DEVICE`, or flex.
///
/// # Panics
/// If this build does not have it.
#[doc(hidden)]
pub fn test_device() -> Device {
    let spec = std::env::var("REALIGN_TEST_DEVICE").unwrap_or_else(|_| "flex".to_owned());
    device(&spec).unwrap_or_else(|e| panic!("REALIGN_TEST_DEVICE={spec}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_device_say_what_is() {
        for (spec, words) in [
            (
                "gpu",
                "expected one of flex, ndarray, tch, wgpu, vulkan, metal, cuda, remote, cpu; found `gpu`",
            ),
            ("cuda:x", "expected a number after the colon, found `x`"),
            ("flex:1", "flex takes no index"),
            ("", "found ``"),
        ] {
            let error = device(spec).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        #[cfg(not(feature = "metal"))]
        assert_eq!(device("metal").unwrap_err(), DeviceError::NotBuilt("metal"));
        #[cfg(not(feature = "remote"))]
        assert_eq!(
            device("remote:localhost:1").unwrap_err(),
            DeviceError::NotBuilt("remote")
        );
        #[cfg(feature = "flex")]
        assert_eq!(device("cpu").unwrap(), Device::flex());
    }
}
