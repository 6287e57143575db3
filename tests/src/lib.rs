//! Holds the package together: the end-to-end tests are in tests/, the lab that they share is `culvert-lab`.
