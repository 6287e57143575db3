//! Which CPUs run: what is bound to another one waits for as long as that is off.

/// The numbers of the host's CPUs that run, from the lowest; without sysfs as many as this process may use, counted from 0.
pub fn online() -> Vec<u32> {
    let listed = std::fs::read_to_string("/sys/devices/system/cpu/online").ok();
    let listed = listed.and_then(|list| parse(list.trim())).filter(|cpus| !cpus.is_empty());
    listed.unwrap_or_else(|| {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        (0..u32::try_from(count).unwrap_or(u32::MAX)).collect()
    })
}

/// The kernel's list of CPUs: numbers and ranges with commas between them.
fn parse(list: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<u32>().ok()?..=last.parse().ok().filter(|last| *last < 1 << 16)?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse("0"), Some(vec![0]));
        assert_eq!(parse("0-3,6,8-9"), Some(vec![0, 1, 2, 3, 6, 8, 9]));
        for wrong in ["", "a", "0-", "0-4294967295"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        assert!(!online().is_empty());
    }
}
