//! Post-quantum pre-shared keys (RFC 8784).

use anyhow::{Result, ensure};
use culvert_tests::Pair;
use culvert_tests::matrix::{Cell, Role};

const THEME: &str = "ppk";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn cell(name: &str) -> Cell {
    Cell::new(THEME, name, "aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384")
}

fn ours(cell: Cell, required: bool) -> Cell {
    let ppk = format!("{{ id = \"site\", file = \"secrets/site.ppk\", required = {required} }}");
    cell.ours("tunnel.a.ppk", &ppk).our_file("secrets/site.ppk", SECRET)
}

fn theirs(cell: Cell, id: &str, secret: &str, required: bool) -> Cell {
    cell.theirs("ppk_id", id)
        .theirs("ppk_required", if required { "yes" } else { "no" })
        .theirs("/secrets.ppk-site.id", id)
        .theirs("/secrets.ppk-site.secret", secret)
}

/// A post-quantum key, which both need, beside how they authenticate.
pub(crate) fn with(cell: Cell) -> Cell {
    theirs(ours(cell, true), "site", SECRET, true).then("both use a PPK", |pair| uses(pair, true))
}

fn uses(pair: &Pair, ppk: bool) -> Result<()> {
    ensure!(pair.culvert.site()?.0["ike"]["ppk"] == ppk);
    let said = pair.swan.log();
    let word = if ppk { "using PPK for PPK_ID" } else { "PPK" };
    ensure!(said.contains(word) || !ppk, "strongSwan does not say that it uses a PPK");
    Ok(())
}

pub(crate) fn rows() -> Vec<Cell> {
    let with = |pair: &mut Pair| uses(pair, true);
    let without = |pair: &mut Pair| uses(pair, false);
    let rekey = |cell: Cell| {
        cell.then("Culvert rekeys the IKE SA", |pair| pair.culvert.rekey_ike())
            .then("strongSwan rekeys the child", |pair| pair.swan.rekey_child("net"))
    };
    vec![
        rekey(theirs(ours(cell("required_by_both"), true), "site", SECRET, true).then("both use it", with)),
        theirs(ours(cell("required_here"), true), "site", SECRET, false).then("both use it", with),
        theirs(ours(cell("required_there"), false), "site", SECRET, true).then("both use it", with),
        ours(cell("optional_here_none_there"), false).then("nobody uses it", without),
        theirs(cell("none_here_optional_there"), "site", SECRET, false).then("nobody uses it", without),
        theirs(ours(cell("another_id_optional"), false), "other", SECRET, false)
            .unable(Role::Initiates, "strongSwan with a ppk_id refuses every other id, required or not")
            .then("nobody uses it", without),
        ours(cell("required_here_none_there"), true)
            .fails(&["ppk"])
            .says(Role::Initiates, &["IKE_AUTH", "USE_PPK"])
            .says(Role::Responds, &["IKE_AUTH", "USE_PPK"]),
        theirs(ours(cell("wrong_secret"), true), "site", "another secret of some length", true)
            .fails(&["IKE_AUTH"])
            .says(Role::Initiates, &["AUTHENTICATION_FAILED"])
            .says(Role::Responds, &["pre-shared key"]),
    ]
}
