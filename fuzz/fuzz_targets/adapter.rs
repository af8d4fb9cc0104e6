//! A PEFT folder: `adapter_config.json`, a zero byte, `adapter_model.safetensors`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use realign::burn::tensor::Device;
use realign::model::LlamaConfig;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |&byte| byte == 0);
    let (config, tensors) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("adapter_config.json"), config).expect("written");
    std::fs::write(folder.path().join("adapter_model.safetensors"), tensors).expect("written");
    let shape = LlamaConfig::tiny().shape();
    if let Ok(lora) = realign::lora::load(folder.path(), &shape, &Device::flex()) {
        lora.config.check(&shape).expect("what was loaded is a valid adapter");
        for (&(layer, site), adapter) in &lora.adapters {
            assert!(layer < shape.n_layers);
            let [d_in, d_out] = shape.linear(site);
            assert_eq!((adapter.a.dims()[0], adapter.b.dims()[1]), (d_in, d_out));
        }
    }
});
