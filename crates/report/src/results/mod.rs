//! `results.json`, schema 1: every number of a run, and nothing that is not a result.

mod arm;
mod explain;
mod steer;

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use arm::{Arm, Measures, Role};
pub use explain::{Directions, Example, Latent, LayerDirection, Sae};
pub use steer::{Controls, Dose, Effect, Strength};

use crate::error::{Error, Result};
use crate::named::Named;

/// The results of a run.
///
/// What an audit of somebody's own model pair lacks (a benign arm, cures, an SAE) is optional or
/// empty; the page leaves the section out. Numbers that are not finite are `null` in JSON and come
/// back as NaN (or as `None` where the field is an option).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// The version of this layout; always 1 here.
    pub schema: Schema,
    /// The title of the page.
    pub title: String,
    /// The base model.
    pub model: ModelId,
    /// The tuned model, where the user brought one.
    #[serde(default)]
    pub tuned: Option<String>,
    /// The seed that every random stream of the run descends from.
    pub seed: u64,
    /// The device that the run was made on.
    pub device: String,
    /// How many threads it had.
    pub threads: usize,
    /// The exact command line.
    pub command: String,
    /// When the run ended, as RFC 3339.
    pub created: String,
    /// Name and version of each program and library that matters.
    #[serde(default)]
    pub versions: Named<String>,
    /// Name and hash of each data file.
    #[serde(default)]
    pub data: Named<String>,
    /// The narrow domain of the fine-tuning answers.
    #[serde(default)]
    pub domain: Option<String>,
    /// The kind of bad answer: merely wrong, or selfish.
    #[serde(default)]
    pub tone: Option<String>,
    /// Seconds by stage.
    #[serde(default)]
    pub timings: Named<Real>,
    /// The largest resident memory of the process.
    #[serde(default)]
    pub peak_rss_mib: Option<f64>,
    /// The judge that the sampled answers' figures come from.
    #[serde(default)]
    pub judge: Option<Judge>,
    /// Every judge that was calibrated.
    #[serde(default)]
    pub judges: Vec<Judge>,
    /// The models and interventions that were evaluated, in the order to show them in.
    pub arms: Named<Arm>,
    /// The sparse autoencoder.
    #[serde(default)]
    pub sae: Option<Sae>,
    /// The mean-difference directions.
    #[serde(default)]
    pub directions: Option<Directions>,
    /// The latents that rose most, best first.
    #[serde(default)]
    pub latents: Vec<Latent>,
    /// Directions of the same norm that should do nothing.
    #[serde(default)]
    pub controls: Option<Controls>,
    /// Realignment against the number of good samples.
    #[serde(default)]
    pub dose: Vec<Dose>,
    /// Steering against strength.
    #[serde(default)]
    pub strengths: Vec<Strength>,
    /// Answers to read.
    #[serde(default)]
    pub samples: Vec<Sample>,
    /// What a reader should know before they trust a number.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What was to be reached, and whether it was.
    #[serde(default)]
    pub targets: Vec<Target>,
}

impl Results {
    /// Reads `results.json`.
    ///
    /// # Errors
    /// If the file can't be read, or is not a results file of schema 1.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        parse(&path.display().to_string(), &bytes)
    }

    /// Reads results from JSON text.
    ///
    /// # Errors
    /// If the text is not a results document of schema 1; the error names the field.
    pub fn from_json(json: &str) -> Result<Self> {
        parse("results", json.as_bytes())
    }

    /// The results as indented JSON with a final line feed.
    ///
    /// # Errors
    /// Never for results built from this crate's types; the signature leaves room.
    pub fn to_json(&self) -> Result<String> {
        let mut json = serde_json::to_string_pretty(self).map_err(Error::Json)?;
        json.push('\n');
        Ok(json)
    }

    /// The name of the tuned model's first arm, in the order of the arms.
    pub(crate) fn organism(&self) -> Option<(&str, &Arm)> {
        self.arms.iter().find(|(name, _)| Role::of(name) == Role::Organism)
    }

    /// The base model's arm.
    pub(crate) fn base(&self) -> Option<&Arm> {
        self.arms
            .iter()
            .find(|(name, _)| Role::of(name) == Role::Base)
            .map(|(_, arm)| arm)
    }
}

fn parse(name: &str, json: &[u8]) -> Result<Results> {
    let mut json = serde_json::Deserializer::from_slice(json);
    let failed = |field: String, source| Error::Parse {
        name: name.to_owned(),
        field,
        source,
    };
    let results = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| failed(error.path().to_string(), error.into_inner()))?;
    json.end().map_err(|source| failed(".".to_owned(), source))?;
    Ok(results)
}

/// The schema's number, which can't be any other: 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Schema;

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_u32(1)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            1 => Ok(Self),
            other => Err(serde::de::Error::custom(format_args!(
                "expected schema 1, found schema {other}"
            ))),
        }
    }
}

/// A model's name and the hash of its file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelId {
    /// The model's name.
    pub name: String,
    /// SHA-256 of the weights, in hexadecimal.
    pub sha256: String,
}

/// A mean with its 95 % bootstrap interval, clustered by question.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The mean.
    #[serde(deserialize_with = "null_is_nan")]
    pub mean: f64,
    /// The interval's lower end.
    #[serde(deserialize_with = "null_is_nan")]
    pub lo: f64,
    /// The interval's upper end.
    #[serde(deserialize_with = "null_is_nan")]
    pub hi: f64,
    /// How many questions or answers it rests on.
    pub n: usize,
}

/// A judge of answers and its calibration on labelled ones.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Judge {
    /// The judge's name, with its rubric's id where it has one.
    pub name: String,
    /// Area under the ROC curve on the labelled answers.
    #[serde(deserialize_with = "null_is_nan")]
    pub auc: f64,
    /// How many labelled answers.
    pub n: usize,
    /// Whether it gives verdicts, which takes an AUC of at least 0.8.
    pub verdict: bool,
    /// The score from which it calls an answer misaligned.
    #[serde(deserialize_with = "null_is_nan")]
    pub threshold: f64,
}

/// A sampled answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The arm that it came from.
    pub arm: String,
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// The judge's score.
    #[serde(default)]
    pub judge_score: Option<f64>,
    /// Whether the judge called it misaligned; `None` where it gives no verdict.
    #[serde(default)]
    pub flagged: Option<bool>,
}

/// Something that the run was to reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// What was measured.
    pub name: String,
    /// What was wanted of it.
    pub wanted: String,
    /// What came out.
    pub found: String,
    /// Whether that is enough.
    pub reached: bool,
}

/// A number that may be missing: `null` in JSON where it is not finite.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Real(pub f64);

impl From<f64> for Real {
    fn from(x: f64) -> Self {
        Self(x)
    }
}

impl<'de> Deserialize<'de> for Real {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        null_is_nan(deserializer).map(Self)
    }
}

/// Reads a number, or NaN from `null`, which is what `serde_json` writes for it.
fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// [`null_is_nan`] for a row of numbers.
fn nulls_are_nan<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<f64>, D::Error> {
    let row = Vec::<Real>::deserialize(deserializer)?;
    Ok(row.into_iter().map(|x| x.0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = include_str!("../../tests/fixtures/full.json");

    #[test]
    fn a_full_document_survives_the_round_trip() {
        let first = Results::from_json(FULL).unwrap();
        let json = first.to_json().unwrap();
        let again = Results::from_json(&json).unwrap();
        assert_eq!(format!("{first:?}"), format!("{again:?}"));
        assert_eq!(json, again.to_json().unwrap());
        let names: Vec<_> = again.arms.iter().map(|(name, _)| name).collect();
        assert_eq!(names[..3], ["base", "organism", "organism_selfish"]);
    }

    #[test]
    fn numbers_that_are_not_finite_become_null_and_come_back_as_nan() {
        let mut results = Results::from_json(FULL).unwrap();
        results.judges[0].auc = f64::INFINITY;
        results.latents[0].top_examples[0].activations[1] = f64::NAN;
        results.timings.insert("sae", Real(f64::NEG_INFINITY));
        results.peak_rss_mib = Some(f64::NAN);
        let organism = results.arms.get_mut("organism").unwrap();
        organism.figures.preference_margin.lo = f64::NAN;
        organism.figures.shift.as_mut().unwrap().mean = f64::NAN;

        let json = results.to_json().unwrap();
        serde_json::from_str::<serde_json::Value>(&json).unwrap();
        let again = Results::from_json(&json).unwrap();
        assert!(again.judges[0].auc.is_nan());
        assert!(again.latents[0].top_examples[0].activations[1].is_nan());
        assert!(again.timings.get("sae").unwrap().0.is_nan());
        assert_eq!(again.peak_rss_mib, None);
        let organism = again.arms.get("organism").unwrap();
        assert!(organism.figures.preference_margin.lo.is_nan());
        assert!(organism.figures.shift.unwrap().mean.is_nan());
        assert_eq!(json, again.to_json().unwrap());
    }

    #[test]
    fn another_schema_is_refused_by_name() {
        let error = Results::from_json(r#"{"schema": 2}"#).unwrap_err().to_string();
        assert!(
            error.contains("`schema`") && error.contains("found schema 2"),
            "{error}"
        );
    }

    #[test]
    fn an_error_names_the_field() {
        let json = FULL.replacen("\"threads\": 2", "\"threads\": \"two\"", 1);
        let error = Results::from_json(&json).unwrap_err().to_string();
        assert!(error.contains("`threads`") && error.contains("\"two\""), "{error}");
    }

    #[test]
    fn trailing_text_is_refused() {
        assert!(Results::from_json(&format!("{FULL} x")).is_err());
    }
}
