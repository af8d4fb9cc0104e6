//! SAELens 6 folders: `cfg.json` and `sae_weights.safetensors`.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use realign_run::{read_at_most, tensor_header_problem};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Map, Value, json};

use crate::{Error, Metadata, Result, Sae, SaeConfig};

const CONFIG: &str = "cfg.json";
const WEIGHTS: &str = "sae_weights.safetensors";
/// A configuration is a page of text; more is no configuration.
const LARGEST_CONFIG: u64 = 1 << 20;

impl Sae {
    /// Reads a SAELens 6 folder of architecture `topk`.
    ///
    /// `apply_b_dec_to_input` and `rescale_acts_by_decoder_norm` are folded into the weights, so that the arithmetic
    /// of [`Sae`] gives the same reconstruction. With the rescaling a latent's activation is the one that SAELens
    /// reports.
    ///
    /// # Errors
    /// [`Error::Field`] names what this crate does not do (another architecture, a normalisation of activations, a
    /// file older than SAELens 6); [`Error::Malformed`] and [`Error::Tensor`] what is wrong with a file.
    pub fn load(folder: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let folder = folder.as_ref();
        let cfg = Cfg::read(folder.join(CONFIG))?;
        let (config, path) = (cfg.sizes()?, folder.join(WEIGHTS));
        let bytes = read_at_most(&path, u64::MAX)?;
        if let Some(problem) = tensor_header_problem(&bytes) {
            return Err(Error::Malformed {
                path,
                what: format!("not a safetensors file: {problem}"),
            });
        }
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| Error::Malformed {
            path: path.clone(),
            what: format!("not a safetensors file: {e}"),
        })?;
        let SaeConfig { d_in, d_sae, .. } = config;
        let read = |tensor, shape: &[usize]| floats(&path, &tensors, tensor, shape);
        let mut w_enc = transposed(&read("W_enc", &[d_in, d_sae])?, d_in, d_sae);
        let mut b_enc = read("b_enc", &[d_sae])?;
        let mut w_dec = read("W_dec", &[d_sae, d_in])?;
        let b_dec = read("b_dec", &[d_in])?;
        if !cfg.flag("apply_b_dec_to_input", true)? {
            // x w = (x - b_dec) w + b_dec w
            for (bias, row) in b_enc.iter_mut().zip(w_enc.chunks_exact(d_in)) {
                *bias += row
                    .iter()
                    .zip(&b_dec)
                    .map(|(w, b)| f64::from(*w) * f64::from(*b))
                    .sum::<f64>() as f32;
            }
        }
        if cfg.flag("rescale_acts_by_decoder_norm", false)? {
            for ((enc, dec), bias) in w_enc
                .chunks_exact_mut(d_in)
                .zip(w_dec.chunks_exact_mut(d_in))
                .zip(&mut b_enc)
            {
                let norm = dec.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt() as f32;
                if norm == 0.0 {
                    let found = "a row of zeros, by whose norm rescale_acts_by_decoder_norm divides".into();
                    return Err(Error::Tensor {
                        path,
                        tensor: "W_dec",
                        expected: "rows other than 0".into(),
                        found,
                    });
                }
                enc.iter_mut().for_each(|w| *w *= norm);
                dec.iter_mut().for_each(|w| *w /= norm);
                *bias *= norm;
            }
        }
        let matrix = |data| Tensor::from_data(TensorData::new(data, [d_sae, d_in]), device);
        let vector = |data, n: usize| Tensor::from_data(TensorData::new(data, [n]), device);
        Ok(Self {
            config,
            w_enc: matrix(w_enc),
            b_enc: vector(b_enc, d_sae),
            w_dec: matrix(w_dec),
            b_dec: vector(b_dec, d_in),
            metadata: cfg.metadata()?,
        })
    }

    /// Writes a SAELens 6 folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Run`].
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|source| Error::Io {
            action: "create",
            path: folder.to_owned(),
            source,
        })?;
        let SaeConfig { d_in, d_sae, k } = self.config;
        let host = |data: TensorData| data.iter::<f32>().collect::<Vec<f32>>();
        let w_enc = transposed(&host(self.w_enc.to_data()), d_sae, d_in);
        let tensors = [
            ("W_enc", vec![d_in, d_sae], w_enc),
            ("W_dec", vec![d_sae, d_in], host(self.w_dec.to_data())),
            ("b_dec", vec![d_in], host(self.b_dec.to_data())),
            ("b_enc", vec![d_sae], host(self.b_enc.to_data())),
        ];
        write_tensors(&folder.join(WEIGHTS), tensors)?;
        let mut metadata = serde_json::to_value(&self.metadata).expect("metadata has string keys only");
        if let Value::Object(metadata) = &mut metadata {
            // Without a version from 6.0 on, SAELens takes the file for a legacy one.
            metadata.entry("sae_lens_version").or_insert_with(|| "6.0.0".into());
        }
        let cfg = json!({
            "architecture": "topk",
            "d_in": d_in,
            "d_sae": d_sae,
            "k": k,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": true,
            "rescale_acts_by_decoder_norm": false,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": metadata,
        });
        Ok(realign_run::write_json(folder.join(CONFIG), &cfg)?)
    }
}

/// The fields of `cfg.json`, and where they came from.
struct Cfg {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Cfg {
    fn read(path: PathBuf) -> Result<Self> {
        let text = read_at_most(&path, LARGEST_CONFIG)?;
        let fields = serde_json::from_slice(&text).map_err(|e| Error::Malformed {
            path: path.clone(),
            what: format!("not a JSON object: {e}"),
        })?;
        let cfg = Self { path, fields };
        cfg.expect("architecture", &["topk"], None)?;
        for field in ["activation_fn", "activation_fn_str"] {
            cfg.expect(field, &["relu", "topk"], Some("topk"))?;
        }
        cfg.expect("normalize_activations", &["none"], Some("none"))?;
        cfg.expect("reshape_activations", &["none", "hook_z"], Some("none"))?;
        cfg.check_version()?;
        Ok(cfg)
    }

    fn wrong(&self, field: &'static str, expected: impl Into<String>) -> Error {
        let found = self
            .fields
            .get(field)
            .map_or_else(|| "nothing".to_owned(), ToString::to_string);
        let found = found.chars().take(80).collect();
        Error::Field {
            path: self.path.clone(),
            field,
            expected: expected.into(),
            found,
        }
    }

    /// Absent and null fields are `default`.
    fn expect(&self, field: &'static str, accepted: &[&str], default: Option<&str>) -> Result<()> {
        let found = match self.fields.get(field) {
            None | Some(Value::Null) => default,
            Some(value) => value.as_str(),
        };
        match found {
            Some(found) if accepted.contains(&found) => Ok(()),
            _ => Err(self.wrong(field, accepted.join(" or "))),
        }
    }

    fn flag(&self, field: &'static str, default: bool) -> Result<bool> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(field, "true or false")),
        }
    }

    fn size(&self, field: &'static str) -> Result<usize> {
        let size = self
            .fields
            .get(field)
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok());
        size.filter(|&n| n > 0)
            .ok_or_else(|| self.wrong(field, "an integer of at least 1"))
    }

    fn sizes(&self) -> Result<SaeConfig> {
        let config = SaeConfig::new(self.size("d_in")?, self.size("d_sae")?, self.size("k")?);
        config.check().map_err(|e| Error::Malformed {
            path: self.path.clone(),
            what: e.to_string(),
        })?;
        Ok(config)
    }

    fn metadata(&self) -> Result<Metadata> {
        match self.fields.get("metadata") {
            None | Some(Value::Null) => Ok(Metadata::default()),
            Some(value) => serde_json::from_value(value.clone()).map_err(|e| Error::Malformed {
                path: self.path.clone(),
                what: format!("field `metadata`: {e}"),
            }),
        }
    }

    fn check_version(&self) -> Result<()> {
        let version = self
            .fields
            .get("metadata")
            .and_then(|m| m.get("sae_lens_version"))
            .and_then(Value::as_str);
        let major = version
            .and_then(|v| v.split('.').next())
            .and_then(|major| major.parse::<u64>().ok());
        if major.is_some_and(|major| major >= 6) {
            return Ok(());
        }
        let found = version.unwrap_or("nothing").chars().take(80).collect();
        let expected = "6 or later (load and save it once with SAELens 6)".into();
        Err(Error::Field {
            path: self.path.clone(),
            field: "metadata.sae_lens_version",
            expected,
            found,
        })
    }
}

/// A tensor of this shape as f32: F32, F16 and BF16 are accepted, NaN and infinities are not.
pub(crate) fn floats(
    path: &Path,
    tensors: &SafeTensors<'_>,
    tensor: &'static str,
    shape: &[usize],
) -> Result<Vec<f32>> {
    let wrong = |found| Error::Tensor {
        path: path.to_owned(),
        tensor,
        expected: format!("floats of shape {shape:?}"),
        found,
    };
    let view = tensors
        .tensor(tensor)
        .map_err(|_| wrong(format!("only {:?}", tensors.names())))?;
    if view.shape() != shape {
        return Err(wrong(format!("{:?}", view.shape())));
    }
    let data = view.data();
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => data
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| half::f16::from_le_bytes(*b).to_f32())
            .collect(),
        Dtype::BF16 => data
            .as_chunks::<2>()
            .0
            .iter()
            .map(|b| half::bf16::from_le_bytes(*b).to_f32())
            .collect(),
        other => return Err(wrong(format!("type {other:?}"))),
    };
    match values.iter().position(|x| !x.is_finite()) {
        Some(at) => Err(wrong(format!("{} at element {at}", values[at]))),
        None => Ok(values),
    }
}

/// Named f32 tensors as the bytes of a safetensors file.
pub(crate) fn to_bytes<const N: usize>(tensors: [(&'static str, Vec<usize>, Vec<f32>); N]) -> Vec<u8> {
    let tensors = tensors.map(|(name, shape, data)| {
        let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        (name, shape, bytes)
    });
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (
            *name,
            TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a shape of its own data"),
        )
    });
    safetensors::serialize(views, None).expect("names and shapes make a header")
}

fn write_tensors<const N: usize>(path: &Path, tensors: [(&'static str, Vec<usize>, Vec<f32>); N]) -> Result<()> {
    Ok(realign_run::write_atomic(path, &to_bytes(tensors))?)
}

/// `[rows, columns]` to `[columns, rows]`.
fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0f32; x.len()];
    for (row, values) in x.chunks_exact(columns).enumerate() {
        for (column, value) in values.iter().enumerate() {
            out[column * rows + row] = *value;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use realign_run::Seed;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Reference {
        inputs: Vec<Vec<f32>>,
        /// `(latent, activation)` of the active ones.
        activations: Vec<Vec<(u32, f32)>>,
        reconstructions: Vec<Vec<f32>>,
    }

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    fn matrix(rows: &[Vec<f32>]) -> Tensor<2> {
        let shape = [rows.len(), rows[0].len()];
        Tensor::from_data(TensorData::new(rows.concat(), shape), &Device::flex())
    }

    fn parts(sae: &Sae) -> [TensorData; 4] {
        [
            sae.w_enc.to_data(),
            sae.b_enc.to_data(),
            sae.w_dec.to_data(),
            sae.b_dec.to_data(),
        ]
    }

    /// A folder that loads, for tests to damage.
    fn saved() -> (tempfile::TempDir, Sae) {
        let folder = tempfile::tempdir().unwrap();
        let mut sae = SaeConfig::new(3, 5, 2).init(&Seed::new(1), &Device::flex());
        sae.b_enc = Tensor::from_floats([0.1, 0.2, 0.3, 0.4, 0.5], &Device::flex());
        sae.b_dec = Tensor::from_floats([1.0, 2.0, 3.0], &Device::flex());
        sae.metadata.hook_name = Some("blocks.16.hook_resid_post".into());
        sae.metadata.other.insert("context_size".into(), 128.into());
        sae.save(folder.path()).unwrap();
        (folder, sae)
    }

    fn error(folder: &Path) -> String {
        Sae::load(folder, &Device::flex()).unwrap_err().to_string()
    }

    #[test]
    fn files_by_saelens_give_saelens_activations_and_reconstructions() {
        for name in ["saelens_topk", "saelens_topk_rescaled"] {
            let folder = fixture(name);
            let sae = Sae::load(&folder, &Device::flex()).unwrap();
            assert_eq!(sae.at(), Some(realign_core::HookPoint::ResidPost(16)));
            let text = std::fs::read(folder.join("reference.json")).unwrap();
            let reference: Reference = serde_json::from_slice(&text).unwrap();
            let latents = sae.encode(matrix(&reference.inputs));
            let (values, indices) = latents.to_vecs();
            let k = sae.config.k;
            for (t, wanted) in reference.activations.iter().enumerate() {
                let mut found: Vec<(u32, f32)> = (t * k..(t + 1) * k).map(|j| (indices[j], values[j])).collect();
                found.retain(|(_, value)| *value > 0.0);
                found.sort_by_key(|(latent, _)| *latent);
                let mut wanted = wanted.clone();
                wanted.sort_by_key(|(latent, _)| *latent);
                assert_eq!(found.len(), wanted.len(), "{name}, token {t}");
                for (found, wanted) in found.iter().zip(wanted) {
                    assert_eq!(found.0, wanted.0, "{name}, token {t}");
                    assert!(
                        (found.1 - wanted.1).abs() <= 2e-5 * wanted.1.max(1.0),
                        "{name}: {found:?} {wanted:?}"
                    );
                }
            }
            let found = sae.decode(&latents).into_data().try_into_vec::<f32>().unwrap();
            for (found, wanted) in found.iter().zip(reference.reconstructions.concat()) {
                assert!(
                    (found - wanted).abs() <= 2e-5 * wanted.abs().max(1.0),
                    "{name}: {found} {wanted}"
                );
            }
        }
    }

    #[test]
    fn saving_then_loading_restores_everything() {
        let (folder, sae) = saved();
        let mut read = Sae::load(folder.path(), &Device::flex()).unwrap();
        assert_eq!((read.config, parts(&read)), (sae.config, parts(&sae)));
        assert_eq!(read.metadata.other.remove("sae_lens_version"), Some("6.0.0".into()));
        assert_eq!(read.metadata, sae.metadata);
    }

    #[test]
    fn a_file_by_saelens_survives_being_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let sae = Sae::load(fixture("saelens_topk"), &Device::flex()).unwrap();
        sae.save(folder.path()).unwrap();
        let again = Sae::load(folder.path(), &Device::flex()).unwrap();
        assert_eq!((parts(&again), again.metadata), (parts(&sae), sae.metadata));
    }

    #[test]
    fn what_this_crate_does_not_do_is_refused_by_name() {
        let changes = [
            ("architecture", json!("jumprelu"), "jumprelu"),
            ("architecture", json!("standard"), "standard"),
            ("architecture", Value::Null, "architecture"),
            ("normalize_activations", json!("layer_norm"), "layer_norm"),
            ("reshape_activations", json!("other"), "other"),
            ("apply_b_dec_to_input", json!("yes"), "apply_b_dec_to_input"),
            ("rescale_acts_by_decoder_norm", json!(1), "rescale_acts_by_decoder_norm"),
            ("d_in", json!(0), "d_in"),
            ("d_in", json!(-3), "d_in"),
            ("d_sae", json!(1e300), "d_sae"),
            ("d_sae", json!(u64::MAX), "d_sae = 18446744073709551615"),
            ("k", json!(6), "k = 6"),
            ("k", json!("many"), "`k`"),
            ("metadata", json!({}), "sae_lens_version"),
            ("metadata", json!({"sae_lens_version": "5.9.1"}), "5.9.1"),
            (
                "metadata",
                json!({"sae_lens_version": "6.1.0", "hook_name": 3}),
                "metadata",
            ),
            ("d_in", json!(4), "W_enc"),
        ];
        for (field, value, named) in changes {
            let (folder, _) = saved();
            let path = folder.path().join(CONFIG);
            let mut cfg: Map<String, Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            cfg.insert(field.into(), value.clone());
            std::fs::write(&path, serde_json::to_vec(&cfg).unwrap()).unwrap();
            let error = error(folder.path());
            assert!(error.contains(named), "{field} = {value}: {error}");
        }
    }

    #[test]
    fn a_damaged_folder_is_an_error_that_names_the_file() {
        let damage: [(&str, &[u8], &str); 8] = [
            (CONFIG, b"", "not a JSON object"),
            (CONFIG, b"[1, 2]", "not a JSON object"),
            (CONFIG, b"{\"architecture\": \"topk\"", "not a JSON object"),
            (CONFIG, &[b'['; 5000], "not a JSON object"),
            (CONFIG, &[b' '; (LARGEST_CONFIG + 1) as usize], "at most 1048576 bytes"),
            (WEIGHTS, b"", "not a safetensors file"),
            (WEIGHTS, &[255; 64], "not a safetensors file"),
            (WEIGHTS, b"\x02\0\0\0\0\0\0\0{}", "W_enc"),
        ];
        for (file, content, named) in damage {
            let (folder, _) = saved();
            std::fs::write(folder.path().join(file), content).unwrap();
            let error = error(folder.path());
            assert!(error.contains(named) && error.contains(file), "{error}");
        }
        let (folder, _) = saved();
        std::fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
        assert!(error(folder.path()).contains(WEIGHTS));
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        let (folder, _) = saved();
        for file in [CONFIG, WEIGHTS] {
            let path = folder.path().join(file);
            let whole = std::fs::read(&path).unwrap();
            // The last byte of the configuration is a line end.
            for end in (0..whole.len() - 1).step_by(3) {
                std::fs::write(&path, &whole[..end]).unwrap();
                assert!(
                    Sae::load(folder.path(), &Device::flex()).is_err(),
                    "{file} cut at {end}"
                );
            }
            std::fs::write(&path, &whole).unwrap();
        }
        assert!(Sae::load(folder.path(), &Device::flex()).is_ok());
    }

    #[test]
    fn weights_of_another_type_or_not_finite_are_refused_and_half_precision_is_read() {
        let (folder, sae) = saved();
        let path = folder.path().join(WEIGHTS);
        let write = |b_dec: (Dtype, Vec<u8>)| {
            let host = |data: TensorData| data.iter::<f32>().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
            let tensors = [
                (
                    "W_enc",
                    Dtype::F32,
                    vec![3, 5],
                    host(sae.w_enc.clone().transpose().to_data()),
                ),
                ("W_dec", Dtype::F32, vec![5, 3], host(sae.w_dec.to_data())),
                ("b_enc", Dtype::F32, vec![5], host(sae.b_enc.to_data())),
                ("b_dec", b_dec.0, vec![3], b_dec.1),
            ];
            let views = tensors
                .iter()
                .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
            std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        };
        write((Dtype::I32, vec![0; 12]));
        assert!(error(folder.path()).contains("I32"));
        write((
            Dtype::F32,
            [1.0, f32::NAN, 0.0].iter().flat_map(|x| x.to_le_bytes()).collect(),
        ));
        assert!(error(folder.path()).contains("NaN at element 1"));
        for (dtype, bytes) in [
            (
                Dtype::BF16,
                [1.0, 2.0, 3.0]
                    .iter()
                    .flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())
                    .collect(),
            ),
            (
                Dtype::F16,
                [1.0, 2.0, 3.0]
                    .iter()
                    .flat_map(|x| half::f16::from_f32(*x).to_le_bytes())
                    .collect(),
            ),
        ] {
            write((dtype, bytes));
            let read = Sae::load(folder.path(), &Device::flex()).unwrap();
            assert_eq!(parts(&read), parts(&sae));
        }
    }
}
