use std::ops::ControlFlow;

/// How far a long computation has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is being done (`"finetune"`).
    pub stage: &'a str,
    /// Steps done.
    pub done: u64,
    /// Steps in all; 0 where that is not known.
    pub total: u64,
    /// The figure to watch (`"loss 1.23"`); may be empty.
    pub note: String,
}

/// The callback through which a library tells of its progress and hears that it should stop.
///
/// A library calls it once a step, after the step is done, and never prints. `Break` means: write
/// a checkpoint of the step just done, then return the crate's `Interrupted` error; the same call
/// in the same run folder goes on from there.
///
/// ```
/// use std::ops::ControlFlow;
/// use realign_run::{Error, Progress, Report};
///
/// fn train(steps: u64, report: &mut Report<'_>) -> Result<(), Error> {
///     for done in 1..=steps {
///         let now = Progress { stage: "train", done, total: steps, note: String::new() };
///         if report(now).is_break() {
///             return Err(Error::Interrupted { stage: "train".into(), done });
///         }
///     }
///     Ok(())
/// }
///
/// let stop_at_two = &mut |p: Progress<'_>| match p.done {
///     2 => ControlFlow::Break(()),
///     _ => ControlFlow::Continue(()),
/// };
/// let error = train(5, stop_at_two).unwrap_err();
/// assert!(matches!(error, Error::Interrupted { done: 2, .. }));
/// ```
pub type Report<'a> = dyn FnMut(Progress<'_>) -> ControlFlow<()> + 'a;
