//! Which rows are to be measured: `VHASHIFY_BENCH_ROWS`.

/// Some rows by their ids, or all.
pub struct Rows(Option<String>);

impl Rows {
    /// Those that the environment names.
    pub fn from_environment() -> Self {
        Self(std::env::var("VHASHIFY_BENCH_ROWS").ok())
    }

    /// Whether the row `id` is one of them.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        let is_named = |rows: &String| rows.split(',').any(|row| row == id);
        self.0.as_ref().is_none_or(is_named)
    }
}
