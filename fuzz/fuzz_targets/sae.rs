//! A SAELens folder: `cfg.json`, a zero byte, `sae_weights.safetensors`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use realign::burn::tensor::{Device, Tensor};
use realign::sae::Sae;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |&byte| byte == 0);
    let (config, tensors) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("cfg.json"), config).expect("written");
    std::fs::write(folder.path().join("sae_weights.safetensors"), tensors).expect("written");
    let device = Device::flex();
    if let Ok(sae) = Sae::load(folder.path(), &device) {
        let x = Tensor::ones([2, sae.d_in()], &device);
        assert_eq!(sae.forward(x).dims(), [2, sae.d_in()]);
    }
});
