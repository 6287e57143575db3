//! The lab: network namespaces, links, NATs and the daemons run in them, for tests and for the demo.
