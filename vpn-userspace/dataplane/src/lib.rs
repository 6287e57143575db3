//! Engines, ports and workers: who does ESP for an SA, and how packets reach them.
