//! Named ranges on the timeline of Nsight Systems: `step 120`, `teacher/L07`, `attention.fwd`. They do
//! something with the feature `nvtx` only; without it the calls vanish.

/// An open range of this thread; closed when dropped. Ranges nest.
#[must_use = "the range ends when this is dropped"]
pub struct Range {
    /// Ranges belong to the thread that opened them.
    _of_thread: std::marker::PhantomData<*const ()>,
}

#[cfg(feature = "nvtx")]
unsafe extern "C" {
    fn glmae_nvtx_push(name: *const std::ffi::c_char);
    fn glmae_nvtx_pop();
}

/// Opens a range. `name` is only made when ranges are recorded.
pub fn range<S: AsRef<str>>(name: impl FnOnce() -> S) -> Range {
    #[cfg(feature = "nvtx")]
    {
        let name: Vec<u8> = name().as_ref().bytes().filter(|&b| b != 0).chain([0]).collect();
        // SAFETY: ends with its only zero byte and lives through the call, which copies it.
        unsafe { glmae_nvtx_push(name.as_ptr().cast()) };
    }
    #[cfg(not(feature = "nvtx"))]
    let _ = name;
    Range { _of_thread: std::marker::PhantomData }
}

impl Drop for Range {
    fn drop(&mut self) {
        #[cfg(feature = "nvtx")]
        // SAFETY: closes the range that this value opened on this thread.
        unsafe {
            glmae_nvtx_pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn ranges_nest_and_make_names_only_when_used() {
        let made = std::cell::Cell::new(0);
        let name = || {
            made.set(made.get() + 1);
            format!("step {}\0", made.get())
        };
        {
            let _outer = range(name);
            let _inner = range(|| "attention.fwd");
        }
        assert_eq!(made.get(), i32::from(cfg!(feature = "nvtx")));
    }
}
