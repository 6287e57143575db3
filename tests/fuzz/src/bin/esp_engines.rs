//! Fuzz target, see the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| culvert_fuzz::run("esp_engines", input));
