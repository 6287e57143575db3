//! The command line, as `cargo test` and Rust's own harness have it.

use anyhow::{Context, Result, bail};

/// What to run, and how.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Args {
    /// Only tests whose name contains one of these.
    pub(super) filters: Vec<String>,
    /// Only say what there is.
    pub(super) list: bool,
    /// Labs at the same time.
    pub(super) threads: usize,
    /// Only the cells that need a kernel with ESP.
    pub(super) kernel_esp: bool,
}

impl Args {
    pub(super) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        // Most of a lab's time is waiting: more labs than cores.
        let threads = std::thread::available_parallelism().map_or(2, usize::from) * 2;
        let mut args = Self { threads, ..Self::default() };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--list" => args.list = true,
                "--kernel-esp" => args.kernel_esp = true,
                "--test-threads" => {
                    let count = words.next().context("--test-threads needs a number")?;
                    args.threads = count.parse::<usize>().context("--test-threads needs a number")?.max(1);
                }
                "--color" | "--format" => drop(words.next()),
                "--nocapture" | "--quiet" | "--exact" => {}
                other if other.starts_with('-') => bail!("no such option: {other}"),
                _ => args.filters.push(word),
            }
        }
        Ok(args)
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| name.contains(filter.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::Args;

    #[test]
    fn options_of_the_harness() {
        let parse = |line: &str| Args::parse(line.split_whitespace().map(str::to_owned));
        let args = parse("--color never nat --test-threads 3 ipv6").unwrap();
        assert_eq!((args.threads, args.filters.as_slice()), (3, &["nat".to_owned(), "ipv6".to_owned()][..]));
        assert!(
            args.wants("addresses::ipv6_outside::initiates") && !args.wants("failures::wrong_psk::responds")
        );
        assert!(parse("--bogus").is_err() && parse("--test-threads").is_err());
    }
}
