//! The program of the image `nonewprivs`: says whom it runs as, which its setuid bit may or may not have changed.

unsafe extern "C" {
    fn geteuid() -> u32;
}

fn main() {
    // SAFETY: geteuid has no arguments and cannot fail.
    println!("Effective uid: {}", unsafe { geteuid() });
}
