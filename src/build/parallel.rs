//! Work on several threads with results in order.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use crate::error::{Error, Exit, Result};

/// Runs the work on several threads; results come in the order of the items. After an error no
/// further item is begun.
pub(super) fn in_parallel<I: Sync, O: Send>(
    items: &[I],
    threads: usize,
    work: impl Fn(&I) -> Result<O> + Sync,
) -> Result<Vec<O>> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let slots: Vec<Mutex<Option<Result<O>>>> = items.iter().map(|_| Mutex::new(None)).collect();
    thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = work(item);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    if let Ok(mut slot) = slots[index].lock() {
                        *slot = Some(result);
                    }
                }
            });
        }
    });
    let mut done = Vec::with_capacity(items.len());
    let mut skipped = false;
    for slot in slots {
        match slot.into_inner() {
            Ok(Some(Ok(value))) => done.push(value),
            Ok(Some(Err(e))) => return Err(e),
            _ => skipped = true,
        }
    }
    if skipped {
        return Err(Error::new(Exit::Internal, "a worker thread ended early"));
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parallel_results_keep_their_order() {
        let items: Vec<u32> = (0..50).collect();
        let doubled = in_parallel(&items, 7, |item| Ok(item * 2)).unwrap();
        assert_eq!(doubled, items.iter().map(|i| i * 2).collect::<Vec<_>>());
        let error = in_parallel(&items, 3, |item| match item {
            9 => Err(Error::input("nine")),
            _ => Ok(()),
        });
        assert_eq!(error.unwrap_err().to_string(), "nine");
    }
}
