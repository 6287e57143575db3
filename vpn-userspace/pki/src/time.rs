//! Dates: seconds since 1970 and the calendar, in UTC.

/// Year, month, day, hour, minute and second of a time in seconds since 1970. Good to the year 9999.
pub fn civil(unix: u64) -> (u64, u64, u64, u64, u64, u64) {
    let (days, second) = (unix / 86_400, unix % 86_400);
    // Years begin in March here, so that the leap day comes last: a cycle of 400 years has 146097 days.
    let shifted = days + 719_468;
    let (cycle, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = cycle * 400 + year + u64::from(month <= 2);
    (year, month, date, second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::civil;

    #[test]
    fn the_calendar() {
        for (unix, want) in [
            (0, (1970, 1, 1, 0, 0, 0)),
            (951_782_399, (2000, 2, 28, 23, 59, 59)),
            (951_782_400, (2000, 2, 29, 0, 0, 0)),
            (1_704_067_199, (2023, 12, 31, 23, 59, 59)),
            (1_709_251_200, (2024, 3, 1, 0, 0, 0)),
            (2_524_608_000, (2050, 1, 1, 0, 0, 0)),
            (4_107_542_400, (2100, 3, 1, 0, 0, 0)),
        ] {
            assert_eq!(civil(unix), want, "{unix}");
        }
    }
}
