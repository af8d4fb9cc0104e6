//! `realign report`: the page of a run, written again.

use realign_report::Results;
use realign_run::write_atomic;

use super::{out, print};
use crate::args::{Global, ReportArgs};
use crate::error::Result;

/// Reads `results.json` and writes `report.html` beside it.
pub fn run(global: &Global, args: ReportArgs) -> Result<()> {
    let results = Results::read(&args.run.join("results.json"))?;
    let page = args.run.join("report.html");
    write_atomic(&page, realign_report::render(&results)?.as_bytes())?;
    if global.json {
        return print(global, "", &serde_json::json!({"page": page}));
    }
    out(&realign_report::summary(&results, &page))
}
