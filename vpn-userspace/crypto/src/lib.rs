//! Cipher suites of IKE and ESP: DH groups, PRFs, ciphers, integrity. No I/O, no clock.
