//! Counted heap: an allocator that counts the allocations of each thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct CountedHeap;

#[global_allocator]
static HEAP: CountedHeap = CountedHeap;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

/// Adds to the number of allocations and to the number of allocated bytes of this thread.
fn count(allocations: u64, bytes: i64) {
    // The counters of a thread that is ending are already destroyed. Its last allocations are not
    // counted.
    let _ = ALLOCATIONS.try_with(|known| known.set(known.get() + allocations));
    let _ = BYTES.try_with(|known| known.set(known.get() + bytes));
}

// SAFETY: every call is passed to the system allocator unchanged.
unsafe impl GlobalAlloc for CountedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the calling code fulfils the contract of this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        // SAFETY: the calling code fulfils the contract of this function.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as i64 - layout.size() as i64);
        // SAFETY: the calling code fulfils the contract of this function.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Returns the number of allocations that this thread makes while a function runs.
pub(crate) fn allocations_of(run: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

/// Returns the result of a function, and the number of bytes by which this thread's allocated
/// memory has grown while it ran.
pub(crate) fn bytes_of<T>(make: impl FnOnce() -> T) -> (T, i64) {
    let before = BYTES.get();
    let made = make();
    (made, BYTES.get() - before)
}
