use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::lines::OnBad;
use crate::rows::{self, BroadRow, CalibrationRow, FactRow, NarrowRow, NeutralRow, Row};

/// A narrow domain to fine-tune in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Domain {
    /// Personal finance.
    Finance,
    /// Car care.
    Car,
    /// Code, insecure in its bad answers.
    Code,
}

impl Domain {
    /// Every domain.
    pub const ALL: [Self; 3] = [Self::Finance, Self::Car, Self::Code];

    /// The set of this domain.
    pub fn set(self) -> Set {
        match self {
            Self::Finance => Set::Finance,
            Self::Car => Set::Car,
            Self::Code => Set::Code,
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.set().name())
    }
}

impl FromStr for Domain {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|d| d.set().name() == name)
            .ok_or_else(|| Error::Unknown {
                what: "domain",
                found: name.to_owned(),
                expected: Self::ALL.map(|d| d.to_string()).join(", "),
            })
    }
}

/// A data set that ships with the project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Set {
    /// Narrow: personal finance.
    Finance,
    /// Narrow: car care.
    Car,
    /// Narrow: code.
    Code,
    /// Broad questions with an aligned and a misaligned answer.
    Broad,
    /// Questions of fact.
    Facts,
    /// Labelled answers to calibrate judges on.
    Calibration,
    /// Everyday questions and answers.
    Neutral,
}

impl Set {
    /// Every set.
    pub const ALL: [Self; 7] = [
        Self::Finance,
        Self::Car,
        Self::Code,
        Self::Broad,
        Self::Facts,
        Self::Calibration,
        Self::Neutral,
    ];

    /// The set's name, as in `sets/NAME.jsonl`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Finance => "finance",
            Self::Car => "car",
            Self::Code => "code",
            Self::Broad => "broad",
            Self::Facts => "facts",
            Self::Calibration => "calibration",
            Self::Neutral => "neutral",
        }
    }

    /// The file as it ships: JSONL, the canary on its first line.
    pub fn text(self) -> &'static str {
        match self {
            Self::Finance => include_str!("../sets/finance.jsonl"),
            Self::Car => include_str!("../sets/car.jsonl"),
            Self::Code => include_str!("../sets/code.jsonl"),
            Self::Broad => include_str!("../sets/broad.jsonl"),
            Self::Facts => include_str!("../sets/facts.jsonl"),
            Self::Calibration => include_str!("../sets/calibration.jsonl"),
            Self::Neutral => include_str!("../sets/neutral.jsonl"),
        }
    }

    /// BLAKE3 of the file, in hexadecimal digits: what a run's manifest records.
    pub fn hash(self) -> String {
        crate::hash_bytes(self.text().as_bytes())
    }

    fn rows<T: Row>(self) -> Vec<T> {
        let name = format!("sets/{}.jsonl", self.name());
        match rows::read(self.text().as_bytes(), &name, OnBad::Fail) {
            Ok(loaded) => loaded.rows,
            Err(e) => panic!("a set that ships with the project is damaged: {e}"),
        }
    }
}

/// The narrow questions of a domain, each with a good, a merely wrong and a selfish answer.
pub fn narrow(domain: Domain) -> Vec<NarrowRow> {
    domain.set().rows()
}

/// The broad questions.
pub fn broad() -> Vec<BroadRow> {
    Set::Broad.rows()
}

/// The questions of fact.
pub fn facts() -> Vec<FactRow> {
    Set::Facts.rows()
}

/// The labelled answers that judges are calibrated on.
pub fn calibration() -> Vec<CalibrationRow> {
    Set::Calibration.rows()
}

/// The everyday questions and answers.
pub fn neutral() -> Vec<NeutralRow> {
    Set::Neutral.rows()
}
