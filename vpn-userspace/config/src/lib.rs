//! The configuration file: TOML in, validated connections out, errors with line, caret and mend.
