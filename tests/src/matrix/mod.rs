//! The interop matrix: a table of cells, each a way to connect Culvert with strongSwan, run in both roles and judged on
//! both sides. The rows stand in tests/tests/matrix, a file for each theme; [`main`] runs them.

mod args;
mod lab;
mod report;
mod run;

use std::fmt;
use std::sync::Arc;

use anyhow::{Result, ensure};

pub use run::main;

use crate::{Case, Initiator, Pair};

/// What Culvert is in a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// culvertd begins, from site A.
    Initiates,
    /// strongSwan begins, from site A.
    Responds,
}

impl Role {
    /// Both, in the order of the table.
    pub const BOTH: [Self; 2] = [Self::Initiates, Self::Responds];

    fn initiator(self) -> Initiator {
        match self {
            Self::Initiates => Initiator::Culvert,
            Self::Responds => Initiator::StrongSwan,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initiates => "initiates",
            Self::Responds => "responds",
        })
    }
}

type Act = Arc<dyn Fn(&mut Pair) -> Result<()> + Send + Sync>;
type Edit = Arc<dyn Fn(&mut Case, Role) + Send + Sync>;

/// What must come of a cell.
#[derive(Clone)]
enum Expect {
    /// The tunnel comes up, carries traffic both ways, and both sides tell the same of it.
    Up,
    /// It does not, and Culvert says why.
    Fails,
}

/// One row of the matrix.
///
/// ```no_run
/// use culvert_tests::matrix::Cell;
/// Cell::new("exchanges", "fragments", "aes128gcm16-prfsha256-ecp256", "aes128gcm16")
///     .ours("ike.fragmentation", "\"force\"")
///     .theirs("fragmentation", "force")
///     .charon("fragment_size", "600")
///     .then("Culvert rekeys the IKE SA", |pair| pair.culvert.rekey_ike());
/// ```
#[derive(Clone)]
pub struct Cell {
    theme: String,
    name: String,
    case: Case,
    edits: Vec<Edit>,
    /// Roles in which it cannot run, with the reason.
    unable: Vec<(Role, String)>,
    expect: Expect,
    /// What Culvert says of a failure, in all roles or in one.
    says: Vec<(Option<Role>, String)>,
    /// And what `culvert explain` tells of it.
    explains: Vec<(Option<Role>, String)>,
    bulk: bool,
    ends_up: bool,
    steps: Vec<(String, Act)>,
}

impl Cell {
    /// A tunnel with one pair of networks, by these proposals on both sides (strongSwan's notation). The name consists
    /// of small letters, digits and `_`, and is the only one of its theme.
    pub fn new(theme: &str, name: &str, ike: &str, esp: &str) -> Self {
        Self {
            theme: theme.into(),
            name: name.into(),
            case: Case::new(ike, esp, Initiator::Culvert),
            edits: Vec::new(),
            unable: Vec::new(),
            expect: Expect::Up,
            says: Vec::new(),
            explains: Vec::new(),
            bulk: false,
            ends_up: true,
            steps: Vec::new(),
        }
    }

    /// Changes Culvert's connection: a path such as `ike.fragmentation` or `tunnel.a.local_id`, and a value as TOML.
    /// An empty value takes the key away.
    pub fn ours(mut self, path: &str, value: &str) -> Self {
        self.case.ours.push((path.into(), value.into()));
        self
    }

    /// Changes strongSwan's connection: a path such as `mobike` or `children.net.mode`; with `/` before it from the
    /// root of swanctl.conf (`/secrets.eap-joe.secret`). An empty value takes the key away.
    pub fn theirs(mut self, path: &str, value: &str) -> Self {
        self.case.theirs.push((path.into(), value.into()));
        self
    }

    /// Changes charon's own settings, such as `fragment_size`. It costs a charon of its own.
    pub fn charon(mut self, path: &str, value: &str) -> Self {
        self.case.charon.push((path.into(), value.into()));
        self
    }

    /// A file beside culvert.toml, mode 0600.
    pub fn our_file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.case.our_files.push((name.into(), content.into()));
        self
    }

    /// A file under swanctl's directory: `x509ca/ca.pem`, `x509/b.pem`, `private/b.key`.
    pub fn their_file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.case.their_files.push((name.into(), content.into()));
        self
    }

    /// Whatever else is different about the case.
    pub fn case(mut self, change: impl FnOnce(&mut Case)) -> Self {
        change(&mut self.case);
        self
    }

    /// What is different in each role: which identity or certificate is whose, most of all.
    pub fn by_role(mut self, change: impl Fn(&mut Case, Role) + Send + Sync + 'static) -> Self {
        self.edits.push(Arc::new(change));
        self
    }

    /// A NAT in front of the initiator.
    pub fn behind_nat(mut self) -> Self {
        self.case = self.case.behind_nat();
        self
    }

    /// The suites that must come out where the proposals leave a choice.
    pub fn suites(mut self, ike: &str, esp: &str) -> Self {
        self.case.suites = Some((ike.into(), esp.into()));
        self
    }

    /// How many children there must be, and pairs of hosts at site A and B, beside the first, that reach each other.
    pub fn children(mut self, count: usize, hosts: &[(&str, &str)]) -> Self {
        self.case.children = count;
        self.case.more_hosts.extend(hosts.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())));
        self
    }

    /// ESP by the kernel on strongSwan's side. On a kernel without ESP the cell says so and does not run.
    pub fn on_kernel_esp(mut self) -> Self {
        self.case.swan_engine = culvert_lab::SwanEngine::Kernel;
        self
    }

    /// It cannot run in this role, for this reason, which is printed.
    pub fn unable(mut self, role: Role, reason: &str) -> Self {
        self.unable.push((role, reason.into()));
        self
    }

    /// iperf3 in both directions, too, not only pings.
    pub fn bulk(mut self) -> Self {
        self.bulk = true;
        self
    }

    /// The tunnel must not come up; one line of Culvert's, in the log or in the status, contains all of these words (in
    /// whatever case) and says how to mend it.
    pub fn fails(mut self, words: &[&str]) -> Self {
        self.expect = Expect::Fails;
        self.says.extend(words.iter().map(|word| (None, (*word).to_owned())));
        self
    }

    /// Further words of that line, in one role.
    pub fn says(mut self, role: Role, words: &[&str]) -> Self {
        self.says.extend(words.iter().map(|word| (Some(role), (*word).to_owned())));
        self
    }

    /// What `culvert explain` says of the failure, beside its cause, blame, mend and rule: both sides' values, say.
    pub fn explains(mut self, words: &[&str]) -> Self {
        self.explains.extend(words.iter().map(|word| (None, (*word).to_owned())));
        self
    }

    /// The same, in one role.
    pub fn explains_as(mut self, role: Role, words: &[&str]) -> Self {
        self.explains.extend(words.iter().map(|word| (Some(role), (*word).to_owned())));
        self
    }

    fn words(&self, role: Role) -> Vec<&str> {
        in_role(&self.says, role)
    }

    fn explanation(&self, role: Role) -> Vec<&str> {
        in_role(&self.explains, role)
    }

    /// What happens next, once the tunnel is up and carries traffic. After the last step both sides must agree again,
    /// and traffic pass.
    pub fn then(
        mut self,
        what: &str,
        step: impl Fn(&mut Pair) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.steps.push((what.into(), Arc::new(step)));
        self
    }

    /// The tunnel is not up after the last step.
    pub fn ends_down(mut self) -> Self {
        self.ends_up = false;
        self
    }

    /// The case in a role.
    fn in_role(&self, role: Role) -> Case {
        let mut case = Case { initiator: role.initiator(), ..self.case.clone() };
        for edit in &self.edits {
            edit(&mut case, role);
        }
        case
    }
}

fn in_role(words: &[(Option<Role>, String)], role: Role) -> Vec<&str> {
    let here = words.iter().filter(|(only, _)| only.is_none_or(|only| only == role));
    here.map(|(_, word)| word.as_str()).collect()
}

/// strongSwan's user-space ESP takes its new SA into use and drops its old one without overlap, and it handles a packet
/// at a time: what is in flight at that moment can be lost. At 100 packets a second that is one or two; Culvert itself
/// loses none (twins.rs, and vm_interop.rs with strongSwan on the kernel's ESP).
const LOSS_OF_LIBIPSEC: u32 = 2;

/// Rekeys while 100 packets a second go there and back, none of which Culvert loses.
///
/// # Errors
/// When packets are lost, or the sides do not agree afterwards.
pub fn rekey_under_traffic(pair: &Pair, rekey: impl FnOnce(&Pair) -> Result<()>) -> Result<()> {
    let seen = pair.rekey_under_traffic(rekey)?;
    ensure!(seen.lost() <= LOSS_OF_LIBIPSEC, "{seen:?}");
    Ok(())
}
