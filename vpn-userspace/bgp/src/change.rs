//! From one FRR configuration to another by commands: what is gone is negated, what is new is said, the rest is left alone.

use std::collections::BTreeSet;

/// A context, as the lines that lead into it, and what stands in it.
type Line = (Vec<String>, String);

pub(crate) fn commands(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (lines(old), lines(new));
    let (before, after): (BTreeSet<&Line>, BTreeSet<&Line>) = (old.iter().collect(), new.iter().collect());
    // What stands in a context that goes goes with it.
    let orphan = |line: &Line| {
        (0..line.0.len()).any(|depth| !after.contains(&(line.0[..depth].to_vec(), line.0[depth].clone())))
    };
    let gone = old.iter().filter(|line| !after.contains(line) && !orphan(line));
    // A neighbour goes whole, from all contexts.
    let (of_neighbors, gone): (Vec<&Line>, Vec<&Line>) = gone.partition(|(_, line)| {
        neighbor(line).is_some_and(|it| !new.iter().any(|(_, l)| neighbor(l) == Some(it)))
    });
    // What others name goes when nobody does any more; the rest makes place for what comes.
    let (late, early): (Vec<&Line>, Vec<&Line>) =
        gone.into_iter().partition(|(context, line)| context.is_empty() || opens(line));
    // What others name comes before them.
    let (definitions, rest): (Vec<&Line>, Vec<&Line>) =
        new.iter().filter(|line| !before.contains(line)).partition(|line| !of_router(line));

    let mut commands = Commands::default();
    // A value that another takes the place of need not be taken back first.
    let values: BTreeSet<(&Vec<String>, String)> = new.iter().map(|(c, line)| (c, key(line))).collect();
    for (context, line) in early.into_iter().filter(|(c, line)| !values.contains(&(c, key(line)))) {
        commands.say(context, negated(line));
    }
    for (context, line) in definitions.into_iter().chain(rest) {
        commands.say(context, line.clone());
    }
    let mut said = BTreeSet::new();
    for (context, line) in of_neighbors {
        if let Some(address) = neighbor(line)
            && said.insert(address)
        {
            commands.say(&context[..1], format!("no neighbor {address}"));
        }
    }
    for (context, line) in late {
        commands.say(context, negated(line));
    }
    commands.finish()
}

/// Lines with the contexts in which they stand, by indentation.
fn lines(text: &str) -> Vec<Line> {
    let mut contexts: Vec<String> = Vec::new();
    let mut lines = Vec::new();
    for raw in text.lines() {
        let line = raw.trim_start();
        let depth = raw.len() - line.len();
        contexts.truncate(depth);
        if line.is_empty() || matches!(line, "exit" | "exit-address-family") {
            continue;
        }
        lines.push((contexts.clone(), line.to_owned()));
        contexts.push(line.to_owned());
    }
    lines
}

fn opens(line: &str) -> bool {
    ["router bgp ", "route-map ", "address-family ", "bfd", "profile "]
        .iter()
        .any(|word| line.starts_with(word))
}

fn of_router((context, line): &Line) -> bool {
    context.first().unwrap_or(line).starts_with("router bgp ")
}

fn neighbor(line: &str) -> Option<&str> {
    line.strip_prefix("neighbor ")?.split(' ').next()
}

/// The words of a line before its value, where it has one value; the whole line otherwise.
fn key(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let length = match words[..] {
        ["neighbor", _, "timers", "connect", ..] | ["neighbor", _, "bfd", "profile", ..] => 4,
        [
            "neighbor",
            _,
            "timers" | "description" | "update-source" | "remote-as" | "password" | "maximum-prefix",
            ..,
        ]
        | ["set", "as-path", "prepend", ..] => 3,
        ["set", "local-preference" | "metric", ..] | ["bgp", "router-id", ..] => 2,
        ["detect-multiplier" | "receive-interval" | "transmit-interval", ..] => 1,
        _ => words.len(),
    };
    words[..length].join(" ")
}

/// `no` before it, or without it where it is there; of what has a value without that where FRR wants it so.
fn negated(line: &str) -> String {
    if let Some(positive) = line.strip_prefix("no ") {
        return positive.to_owned();
    }
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["set", "as-path", "prepend", ..] => "no set as-path prepend".to_owned(),
        ["neighbor", address, key @ ("password" | "maximum-prefix" | "description" | "timers"), ..] => {
            format!("no neighbor {address} {key}")
        }
        _ => format!("no {line}"),
    }
}

#[derive(Default)]
struct Commands {
    all: Vec<String>,
    context: Vec<String>,
}

impl Commands {
    /// Says a line in its context. `end` and `configure terminal` lead to the top from everywhere.
    fn say(&mut self, context: &[String], line: String) {
        if self.all.is_empty() {
            self.all.push("configure terminal".to_owned());
        } else if self.context != context {
            self.all.push("end".to_owned());
            self.all.push("configure terminal".to_owned());
            self.context.clear();
        }
        if self.context != context {
            self.all.extend(context.iter().cloned());
            self.context = context.to_vec();
        }
        if opens(&line) && !line.starts_with("no ") {
            self.context.push(line.clone());
        }
        self.all.push(line);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.all.is_empty() {
            self.all.push("end".to_owned());
        }
        self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "ip prefix-list x permit 10.0.0.0/8 le 32\nroute-map x permit 10\n set local-preference 200\nexit\n\
        router bgp 65000\n neighbor 1.1.1.1 remote-as 1\n neighbor 2.2.2.2 remote-as 2\n neighbor 2.2.2.2 timers 1 3\n \
        address-family ipv4 unicast\n  neighbor 1.1.1.1 activate\n  neighbor 2.2.2.2 activate\n exit-address-family\nexit\n";

    #[test]
    fn what_stays_the_same_is_left_alone() {
        assert!(commands(OLD, OLD).is_empty());
        let new = OLD.replace("preference 200", "preference 50");
        assert_eq!(
            commands(OLD, &new),
            ["configure terminal", "route-map x permit 10", "set local-preference 50", "end"]
        );
    }

    #[test]
    fn a_neighbor_goes_whole_and_comes_with_all_that_it_needs() {
        let new = OLD
            .replace(
                " neighbor 2.2.2.2 remote-as 2\n neighbor 2.2.2.2 timers 1 3\n",
                " neighbor 1.1.1.1 shutdown\n",
            )
            .replace("  neighbor 2.2.2.2 activate\n", "");
        assert_eq!(
            commands(OLD, &new),
            [
                "configure terminal",
                "router bgp 65000",
                "neighbor 1.1.1.1 shutdown",
                "no neighbor 2.2.2.2",
                "end"
            ]
        );
        assert_eq!(
            commands(&new, OLD),
            [
                "configure terminal",
                "router bgp 65000",
                "no neighbor 1.1.1.1 shutdown",
                "neighbor 2.2.2.2 remote-as 2",
                "neighbor 2.2.2.2 timers 1 3",
                "end",
                "configure terminal",
                "router bgp 65000",
                "address-family ipv4 unicast",
                "neighbor 2.2.2.2 activate",
                "end"
            ]
        );
    }

    #[test]
    fn definitions_come_first_and_go_last() {
        let more =
            format!("ip prefix-list y permit 10.0.0.0/8\nroute-map y permit 10\n match z\nexit\n{OLD}");
        let there = commands(OLD, &more);
        assert_eq!(
            there,
            [
                "configure terminal",
                "ip prefix-list y permit 10.0.0.0/8",
                "route-map y permit 10",
                "match z",
                "end"
            ]
        );
        assert_eq!(
            commands(&more, OLD),
            [
                "configure terminal",
                "no ip prefix-list y permit 10.0.0.0/8",
                "no route-map y permit 10",
                "end"
            ]
        );
    }
}
