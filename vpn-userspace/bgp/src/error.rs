//! What a routing program printed cannot be understood.

/// An answer of a routing program that cannot be read: it is another version than those that are known.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is no JSON, or not of the shape that FRR 8 to 10 have.
    #[error("FRR's answer to `{question}` cannot be read: {source}")]
    Json {
        /// What was asked.
        question: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// BIRD refused what it was asked.
    #[error("BIRD refuses: {0}")]
    Refused(String),
}
