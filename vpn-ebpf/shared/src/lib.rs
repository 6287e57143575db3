//! What the eBPF programs and user space share: map layouts, the packet parser. no_std, no dependencies.
#![no_std]
