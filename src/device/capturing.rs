//! Who captures a graph on a device. A capture takes in everything that is started on the device
//! meanwhile, so only the thread that captures may start anything.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{ThreadId, current};

use crate::{Error, Result};

/// The thread that captures, if one does.
#[derive(Default)]
pub struct Capturing(Mutex<Option<ThreadId>>);

/// A capture by this thread, until it is dropped.
pub struct Capture<'a>(&'a Capturing);

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        *self.0.thread() = None;
    }
}

impl Capturing {
    fn thread(&self) -> MutexGuard<'_, Option<ThreadId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Errors: `Unsupported` while another capture lasts.
    pub fn begin(&self) -> Result<Capture<'_>> {
        let mut thread = self.thread();
        if thread.is_some() {
            return Err(Error::Unsupported("a graph is being captured already".into()));
        }
        *thread = Some(current().id());
        Ok(Capture(self))
    }

    /// Whether `what`, about to be started by this thread, becomes part of a graph.
    ///
    /// Errors: `Unsupported` while another thread captures.
    pub fn takes_in(&self, what: &str) -> Result<bool> {
        match *self.thread() {
            None => Ok(false),
            Some(thread) if thread == current().id() => Ok(true),
            Some(_) => Err(Error::Unsupported(format!(
                "{what} while another thread captures a graph on the device"
            ))),
        }
    }

    /// Errors: `Unsupported` while any graph is captured; `what` cannot be part of one.
    pub fn refuse(&self, what: &str) -> Result<()> {
        if self.takes_in(what)? {
            return Err(Error::Unsupported(format!(
                "{what} while a graph is captured; do it before or after"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_that_captures_may_start_anything() {
        let capturing = Capturing::default();
        assert!(!capturing.takes_in("a launch").unwrap());
        let capture = capturing.begin().unwrap();
        assert!(capturing.takes_in("a launch").unwrap());
        assert!(capturing.begin().is_err());
        assert!(capturing.refuse("waiting").is_err());
        std::thread::scope(|scope| {
            let other = || capturing.takes_in("a launch").unwrap_err().to_string();
            assert!(scope.spawn(other).join().unwrap().contains("another thread"));
        });
        drop(capture);
        assert!(capturing.refuse("waiting").is_ok());
    }

    #[test]
    fn a_capture_that_panics_is_over() {
        let capturing = Capturing::default();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _capture = capturing.begin().unwrap();
            panic!("as a test");
        }));
        assert!(panicked.is_err() && capturing.refuse("waiting").is_ok());
    }
}
