//! Renders a results file as a page and prints the summary.
//!
//! ```text
//! cargo run -p realign-report --example page -- results.json report.html
//! ```
//!
//! Prints the run's summary, which ends with the path of the page.
#![allow(clippy::print_stdout)]

use std::path::Path;

use realign_report::{Results, render, summary};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(results), Some(page)) = (args.next(), args.next()) else {
        return Err("usage: page RESULTS.json PAGE.html".into());
    };
    let results = Results::read(Path::new(&results))?;
    std::fs::write(&page, render(&results)?)?;
    print!("{}", summary(&results, Path::new(&page)));
    Ok(())
}
