//! What memory is for: every allocation carries the class that its thread has set, so that messages,
//! the largest holders at an out-of-memory error and the plan of a run can name it.

use std::cell::Cell;

thread_local! {
    static CURRENT: Cell<&'static str> = const { Cell::new("tensor") };
}

/// Puts the former class back when dropped.
pub struct Scope {
    former: &'static str,
}

/// Allocations of this thread are `class` from now on, until the scope is dropped.
#[must_use = "the class ends with the scope"]
pub fn scope(class: &'static str) -> Scope {
    Scope { former: CURRENT.replace(class) }
}

/// The class of this thread's allocations.
pub(super) fn current() -> &'static str {
    CURRENT.get()
}

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.set(self.former);
    }
}
