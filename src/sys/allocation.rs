//! How much memory a piece of work takes, for the tests that promise a bound.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Passes everything on to the system's allocator and counts what a thread holds.
struct Counting;

thread_local! {
    // Constant and without a destructor, so that reading them allocates nothing.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(by: isize) {
    let held = HELD.get() + by;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

fn size(layout: Layout) -> isize {
    isize::try_from(layout.size()).unwrap_or(isize::MAX)
}

// SAFETY: every call goes to the system's allocator with the very same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-size(layout));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Does a piece of work in this thread; returns the most memory that it held at once beyond what was there before, in bytes.
pub(crate) fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = work();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}

#[test]
fn counts_what_is_held_at_once() {
    let ((), peak) = peak(|| {
        for _ in 0..10 {
            drop(std::hint::black_box(vec![0_u8; 1_000_000]));
        }
    });
    assert!((1_000_000..1_100_000).contains(&peak), "{peak}");
}
