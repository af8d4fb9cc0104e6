//! Bars on a terminal, plain lines elsewhere; and the word that the user wants to stop.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use realign_run::Progress;

use crate::error::{Failure, INTERRUPTED, Result};

/// The exit code of the stop that was asked for; 0 before.
static STOP: AtomicU8 = AtomicU8::new(0);

/// Makes Ctrl-C, SIGTERM and SIGHUP ask for a stop; the second one stops at once.
pub fn install_handler() {
    // It fails only if a handler is there already, and then stopping works as that one does.
    #[cfg(unix)]
    {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        if let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) {
            std::thread::spawn(move || signals.forever().for_each(|signal| stop(128 + signal as u8)));
        }
    }
    #[cfg(not(unix))]
    let _ = ctrlc::set_handler(|| stop(INTERRUPTED));
}

fn stop(code: u8) {
    if STOP.swap(code, Ordering::SeqCst) != 0 {
        std::process::exit(code.into());
    }
}

fn stopping() -> bool {
    STOP.load(Ordering::SeqCst) != 0
}

/// The exit code of a command that was stopped: 128 and the signal's number, as shells have it.
pub fn stop_code() -> u8 {
    match STOP.load(Ordering::SeqCst) {
        0 => INTERRUPTED,
        code => code,
    }
}

/// An error if the user asked for a stop.
pub fn check_stop() -> Result<()> {
    if stopping() {
        Err(Failure::interrupted())
    } else {
        Ok(())
    }
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// A bar that redraws itself.
    Bars,
    /// A line now and then.
    Lines,
    /// Nothing.
    Nothing,
}

impl Show {
    /// Bars on a terminal, lines elsewhere, nothing when quiet.
    pub fn choose(quiet: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb") || std::env::var_os("CI").is_some();
        match quiet {
            true => Self::Nothing,
            false if std::io::stderr().is_terminal() && !dumb => Self::Bars,
            false => Self::Lines,
        }
    }
}

/// Shows how far one long job has come.
pub struct Meter {
    show: Show,
    title: String,
    bar: Option<ProgressBar>,
    unit: Unit,
    started: Instant,
    last_line: Instant,
}

/// What a meter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Steps.
    Steps,
    /// Bytes.
    Bytes,
}

const BETWEEN_LINES: Duration = Duration::from_secs(5);

impl Meter {
    /// A meter for a job of this title.
    pub fn new(show: Show, title: impl Into<String>, unit: Unit) -> Self {
        let title = title.into();
        let bar = (show == Show::Bars).then(|| {
            let template = match unit {
                Unit::Steps => "{prefix:<28} {bar:24} {pos:>5}/{len:<5} {elapsed:>4} left {eta:<4} {msg}",
                Unit::Bytes => "{prefix:<28} {bar:24} {bytes:>10}/{total_bytes:<10} left {eta:<4} {msg}",
            };
            let style = ProgressStyle::with_template(template).expect("a valid template");
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            bar.with_style(style).with_prefix(title.clone())
        });
        let now = Instant::now();
        Self {
            show,
            title,
            bar,
            unit,
            started: now,
            last_line: now,
        }
    }

    /// Shows this state; breaks when the user asked for a stop.
    pub fn update(&mut self, done: u64, total: u64, note: &str) -> ControlFlow<()> {
        match self.show {
            Show::Bars => {
                if let Some(bar) = &self.bar {
                    if total > 0 {
                        bar.set_length(total);
                    }
                    bar.set_position(done);
                    bar.set_message(note.to_owned());
                }
            }
            Show::Lines if self.last_line.elapsed() >= BETWEEN_LINES => {
                self.last_line = Instant::now();
                self.line(&format!("{} {note}", self.amount(done, total)));
            }
            _ => {}
        }
        if stopping() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// The callback that libraries take.
    pub fn report(&mut self) -> impl FnMut(Progress<'_>) -> ControlFlow<()> + '_ {
        |p| self.update(p.done, p.total, &p.note)
    }

    /// Ends the meter with one line of what came out.
    pub fn finish(self, note: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if self.show != Show::Nothing {
            self.line(&format!("done in {:.1} s {note}", self.started.elapsed().as_secs_f64()));
        }
    }

    fn amount(&self, done: u64, total: u64) -> String {
        let (done, total) = match self.unit {
            Unit::Steps => (done.to_string(), total.to_string()),
            Unit::Bytes => (
                format!("{:.1} MB", done as f64 / 1e6),
                format!("{:.1} MB", total as f64 / 1e6),
            ),
        };
        if total == "0" || total == "0.0 MB" {
            done
        } else {
            format!("{done}/{total}")
        }
    }

    fn line(&self, text: &str) {
        // Whoever read this may have gone; the work goes on.
        let _ = writeln!(std::io::stderr(), "{:<28} {}", self.title, text.trim_end());
    }
}
