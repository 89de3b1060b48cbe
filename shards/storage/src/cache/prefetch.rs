//! Memory fetched ahead of its use.
//!
//! Always: a prefetch changes nothing but what the processor's cache holds. It is an instruction of its own because a load that nobody uses is still
//! waited for before what comes behind it can be done with: some hundred loads ahead the processor stands still.

/// Has the processor fetch the line that this begins in, and goes on at once.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
pub fn prefetch<T: ?Sized>(what: &T) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch reads nothing that the program sees and cannot fault; the address is that of a reference besides.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(what).cast()) };
}

/// Has the processor fetch the line that this begins in.
#[cfg(not(target_arch = "x86_64"))]
pub fn prefetch<T: ?Sized>(what: &T) {
    std::hint::black_box(std::ptr::from_ref(what).cast::<u8>());
}
