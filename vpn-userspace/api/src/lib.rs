//! The control API's types, shared by culvertd and culvert.
