//! `culvert monitor`: the gateway live in a terminal, with plots of each tunnel's throughput.

mod model;
mod view;

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use culvert_api::Target;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::client::{Client, ClientError};
use model::Model;
use view::Look;

/// Shows until somebody quits. A culvertd that goes away is waited for.
pub(crate) fn monitor(
    client: Client,
    socket: &Path,
    target: Option<&Target>,
    interval: Duration,
) -> Result<()> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        bail!("culvert monitor needs a terminal; scripts read `culvert status --json`");
    }
    if interval < Duration::from_secs(1) {
        bail!("--interval is at least 1s");
    }
    let mut client = Some(client);
    if let (Some(target), Some(client)) = (target, &mut client) {
        let mut status = client.status()?;
        crate::render::narrow(&mut status, target).context(ClientError::no_such(target))?;
    }
    // The terminal is put back in order also if this panics.
    let mut terminal = ratatui::try_init().context("cannot take over the terminal")?;
    let shown = show(&mut terminal, &mut client, socket, target, interval);
    ratatui::restore();
    shown
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    client: &mut Option<Client>,
    socket: &Path,
    target: Option<&Target>,
    interval: Duration,
) -> Result<()> {
    let mut model = Model::default();
    let mut trouble = None;
    let mut last = Instant::now();
    let mut next = last;
    loop {
        if Instant::now() >= next {
            let asked = match client {
                Some(client) => client.status(),
                None => Client::connect(socket).and_then(|new| client.insert(new).status()),
            };
            let now = Instant::now();
            match asked {
                Ok(status) => {
                    model.update(&status, target, now.duration_since(last).as_secs_f64());
                    (last, trouble) = (now, None);
                }
                Err(error) => {
                    *client = None;
                    trouble = Some(error.to_string());
                }
            }
            next = now + interval;
        }
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let look = Look { interval: interval.as_secs_f64(), trouble: trouble.as_deref(), colour };
        terminal.draw(|frame| view::draw(frame, &model, &look))?;
        if !event::poll(next.saturating_duration_since(Instant::now()))? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
            KeyCode::Up | KeyCode::Char('k') => model.select(false),
            KeyCode::Down | KeyCode::Char('j') => model.select(true),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use culvert_api::Status;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::model::Model;
    use super::view::{Look, draw};

    fn status() -> Status {
        crate::render::fixture::status()
    }

    fn picture(model: &Model, trouble: Option<&str>) -> String {
        let mut terminal = Terminal::new(TestBackend::new(120, 30)).unwrap();
        let look = Look { interval: 1.0, trouble, colour: false };
        terminal.draw(|frame| draw(frame, model, &look)).unwrap();
        terminal.backend().to_string()
    }

    /// The fixture's first tunnel after `seconds` of 1 Mbyte/s in and 1000 packets/s, with drops.
    fn later(seconds: u64) -> Status {
        let mut status = status();
        let tunnel = &mut status.connections[0].tunnels[0];
        let child = &mut tunnel.children[0];
        child.bytes_in += 1_000_000 * seconds;
        child.packets_in += 1000 * seconds;
        *child.drops.entry("replay-duplicate".to_owned()).or_default() += 3 * seconds;
        status
    }

    #[test]
    fn rates_are_differences_and_a_rekey_is_no_leap() {
        let mut model = Model::default();
        model.update(&status(), None, 0.0);
        assert_eq!(model.total(), super::model::Rates::default(), "sums are no rates");
        model.update(&later(2), None, 2.0);
        let now = model.rows[0].now;
        assert_eq!((now.bits_in, now.packets_in, now.drops), (8e6, 1000.0, 3.0));
        assert_eq!(model.rows[0].drops["replay-duplicate"], 6);
        // A new SA begins at 0: what it has is new, and what the old one had does not count against it.
        let mut rekeyed = later(2);
        let child = &mut rekeyed.connections[0].tunnels[0].children[0];
        (child.spi_in, child.bytes_in, child.packets_in) = ("cafe0001".to_owned(), 500, 1);
        child.drops.clear();
        model.update(&rekeyed, None, 1.0);
        let now = model.rows[0].now;
        assert_eq!((now.bits_in, now.packets_in, now.drops), (4000.0, 1.0, 0.0));
        assert_eq!(model.rows[0].history.len(), 2);
    }

    #[test]
    fn the_picture() {
        let mut model = Model::default();
        assert!(
            picture(&model, Some("culvertd does not run")).contains("culvertd does not run; trying again")
        );
        model.update(&status(), None, 0.0);
        for second in 1..40 {
            model.update(&later(second * second / 4), None, 1.0);
        }
        insta::assert_snapshot!(picture(&model, None));
        for down in [true, true, true, false] {
            model.select(down);
            picture(&model, None);
        }
        let target = "nobody".parse().unwrap();
        model.update(&status(), Some(&target), 1.0);
        assert!(picture(&model, None).contains("no tunnels"));
    }
}
