//! The error numbers that packet paths tell apart, so that only this crate names libc.

pub use libc::{
    EACCES, EADDRNOTAVAIL, EAGAIN, EBADFD, ECONNREFUSED, EFAULT, EHOSTUNREACH, EINTR, EINVAL, EIO, EMSGSIZE,
    ENETDOWN, ENETUNREACH, ENOBUFS, ENXIO, EPERM,
};
