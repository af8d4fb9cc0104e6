//! Work on several parts of a batch at a time, each on its own share of the cores.
//!
//! Many operations between two matrix products are too small for threads to help, so that a batch computed as a whole leaves
//! cores idle between products. Two halves side by side, each on half of the cores, do not (docs/log.md).

use burn::tensor::Device;

#[cfg(feature = "flex")]
use crate::device::is_flex;

/// Threads that [`in_pool`] keeps awake, its own among them: more of them would fight over the same queues.
#[cfg(feature = "flex")]
const MOST_AWAKE: usize = 8;

/// How many parts are worth computing side by side on `device`: the threads of flex, 1 on every other device.
pub fn lanes(device: &Device) -> usize {
    #[cfg(feature = "flex")]
    if is_flex(device) {
        return rayon::current_num_threads();
    }
    let _ = device;
    1
}

/// `f` of every part, in order; up to [`lanes`] of them at a time.
///
/// Threads started inside `f` by rayon are a share of those outside; nested calls share further.
///
/// # Panics
/// Where `f` panics.
pub fn side_by_side<T: Send, R: Send>(device: &Device, parts: Vec<T>, f: impl Fn(T) -> R + Sync) -> Vec<R> {
    let lanes = lanes(device).min(parts.len());
    if lanes < 2 {
        return parts.into_iter().map(f).collect();
    }
    #[cfg(feature = "flex")]
    return on_pools(lanes, parts, &f);
    #[cfg(not(feature = "flex"))]
    unreachable!("one lane without flex")
}

/// `f` on a thread of the pool that flex computes with; on other devices, and where this is one already, right here.
///
/// Each operation that is started from outside has its work handed over and waits for it: tens of microseconds, longer than
/// most operations of generation take (docs/log.md).
///
/// # Panics
/// Where `f` panics.
pub fn in_pool<R: Send>(device: &Device, f: impl FnOnce() -> R + Send) -> R {
    #[cfg(feature = "flex")]
    if is_flex(device) {
        return awake(f);
    }
    let _ = device;
    f()
}

/// What `a` and `b` give: at a time on flex, inside [`in_pool`], where neither has work enough for all threads.
pub fn both<A: Send, B: Send>(device: &Device, a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    #[cfg(feature = "flex")]
    if is_flex(device) {
        return rayon::join(a, b);
    }
    let _ = device;
    (a(), b())
}

/// `f` in the pool, some other threads of which look for work until it is done: woken by the system for each operation, they would
/// come too late for most of those of generation.
#[cfg(feature = "flex")]
fn awake<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    rayon::scope(|scope| {
        // Also where `f` panics.
        let (done, ends) = (&done, Done(&done));
        let here = rayon::current_thread_index();
        for _ in 1..rayon::current_num_threads().min(MOST_AWAKE) {
            scope.spawn(move |_| {
                // Between two operations this thread may find the job, too; it has something better to do.
                while rayon::current_thread_index() != here && !done.load(Ordering::Relaxed) {
                    if rayon::yield_now() != Some(rayon::Yield::Executed) {
                        std::hint::spin_loop();
                    }
                }
            });
        }
        let result = f();
        drop(ends);
        result
    })
}

#[cfg(feature = "flex")]
fn on_pools<T: Send, R: Send>(lanes: usize, parts: Vec<T>, f: &(impl Fn(T) -> R + Sync)) -> Vec<R> {
    use std::sync::{Mutex, PoisonError};

    let threads = rayon::current_num_threads() / lanes;
    let n = parts.len();
    let queue = Mutex::new(parts.into_iter().enumerate());
    let done = Mutex::new(Vec::with_capacity(n));
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let (queue, done) = (&queue, &done);
            scope.spawn(move || {
                let pool = pool(lane, threads);
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((at, part)) = next else { break };
                    let result = pool.install(|| f(part));
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|&(at, _)| at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// The pool of a lane, kept: a thread that ends gives its memory back to the system, and taking it again costs page faults.
#[cfg(feature = "flex")]
fn pool(lane: usize, threads: usize) -> std::sync::Arc<rayon::ThreadPool> {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex, PoisonError};

    static POOLS: Mutex<BTreeMap<(usize, usize), Arc<rayon::ThreadPool>>> = Mutex::new(BTreeMap::new());
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    let pool = pools.entry((lane, threads)).or_insert_with(|| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |thread| format!("lane {lane}.{thread}"))
            .build();
        Arc::new(pool.expect("the system gives as many threads as before"))
    });
    pool.clone()
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_parts_and_share_the_threads() {
        let device = Device::flex();
        let outside = rayon::current_num_threads();
        let results = side_by_side(&device, (0..9).collect(), |part: usize| {
            (part * part, rayon::current_num_threads())
        });
        let lanes = outside.min(9);
        assert_eq!(
            results,
            (0..9)
                .map(|part| (part * part, (outside / lanes).max(1)))
                .collect::<Vec<_>>()
        );
        assert!(side_by_side(&device, Vec::<u8>::new(), |part| part).is_empty());
    }

    #[test]
    #[should_panic(expected = "scoped thread")]
    fn a_panic_in_a_part_is_not_swallowed() {
        // One part is computed on the spot, where the message would be the part's own.
        if lanes(&Device::flex()) < 2 {
            panic!("a scoped thread panicked");
        }
        side_by_side(&Device::flex(), vec![0, 1, 2], |part| assert_ne!(part, 1));
    }
}
