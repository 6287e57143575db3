//! What every object of programs must hold: its licence, and a panic handler for the compiler.

/// The kernel takes GPL-only helpers from programs that say so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Nothing here can panic, and the verifier refuses an endless loop: a panic would not load.
    loop {}
}
