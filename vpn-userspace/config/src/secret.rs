//! Secrets from files: who may read them, what they may hold, and that nobody prints them.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use culvert_ike::Psk;
use zeroize::Zeroizing;

/// The longest secret file, in bytes.
const MAX_SECRET: u64 = 4096;

/// A key from what a file holds: without one newline at the end; neither empty nor with control
/// characters.
pub(crate) fn from_content(mut content: Zeroizing<Vec<u8>>) -> Result<Psk, SecretError> {
    if content.last() == Some(&b'\n') {
        content.pop();
        if content.last() == Some(&b'\r') {
            content.pop();
        }
    }
    match content.iter().position(u8::is_ascii_control) {
        Some(at) => Err(SecretError::Control { position: at + 1 }),
        // Moved, not copied: the key's owner erases it from now on.
        None => Psk::new(std::mem::take(&mut *content)).map_err(|_| SecretError::Empty),
    }
}

/// A secret file cannot be used. Says nothing of its content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("is not a regular file")]
    NotAFile,
    #[error("may be read or written by others (mode {mode:04o})")]
    Exposed { mode: u32 },
    #[error("belongs to user {owner}, who is neither root nor the user that culvertd runs as ({user})")]
    Owner { owner: u32, user: u32 },
    #[error("is larger than {most} bytes")]
    TooLarge { most: u64 },
    #[error("is empty")]
    Empty,
    #[error("has a control character at byte {position}")]
    Control { position: usize },
}

impl SecretError {
    /// What to do about it.
    pub(crate) fn mend(&self, path: &Path) -> String {
        let path = shell_word(path);
        match self {
            Self::Io(error) if error.kind() == std::io::ErrorKind::NotFound => format!(
                "write the pre-shared key to it, readable by its owner only: `(umask 077; mkdir -p {}; openssl rand -base64 24 > {path})`",
                Path::new(&path).parent().map_or_else(|| ".".into(), |p| p.to_string_lossy().into_owned())
            ),
            Self::Io(_) => format!("run culvertd as root, or `chown root {path}`"),
            Self::NotAFile => "name a file that holds the pre-shared key and nothing else".to_owned(),
            Self::Exposed { .. } => format!("run `chmod 600 {path}`"),
            Self::Owner { .. } => format!("run `chown root {path}`"),
            Self::TooLarge { .. } | Self::Empty | Self::Control { .. } => {
                "the file holds the pre-shared key and nothing else, on one line".to_owned()
            }
        }
    }
}

/// What a file that the configuration names is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// A pre-shared key or a password.
    Secret,
    /// A private key.
    PrivateKey,
    /// Certificates: anybody may read them.
    Public,
}

impl FileKind {
    /// The largest one, in bytes.
    fn most(self) -> u64 {
        match self {
            Self::Secret => MAX_SECRET,
            Self::PrivateKey => 64 * 1024,
            Self::Public => 1024 * 1024,
        }
    }
}

/// How the files are read that the configuration names.
pub(crate) type Files<'a> = &'a mut dyn FnMut(&Path, FileKind) -> Result<Zeroizing<Vec<u8>>, SecretError>;

/// Reads a file; a secret one after checking that nobody else can.
pub(crate) fn read(path: &Path, kind: FileKind) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    // Before opening: opening a pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(SecretError::NotAFile);
    }
    let mut file = File::open(path)?;
    if kind != FileKind::Public {
        check(&file.metadata()?, nix::unistd::geteuid().as_raw())?;
    }
    // Room for all of it at once: growing would leave copies of a secret behind.
    let room = usize::try_from(file.metadata()?.len().min(kind.most())).unwrap_or(0);
    let mut content = Zeroizing::new(Vec::with_capacity(room + 1));
    file.by_ref().take(kind.most() + 1).read_to_end(&mut content)?;
    if content.len() as u64 > kind.most() {
        return Err(SecretError::TooLarge { most: kind.most() });
    }
    Ok(content)
}

fn check(metadata: &Metadata, user: u32) -> Result<(), SecretError> {
    if !metadata.is_file() {
        return Err(SecretError::NotAFile);
    }
    let owner = metadata.uid();
    if owner != 0 && owner != user {
        return Err(SecretError::Owner { owner, user });
    }
    let mode = metadata.mode() & 0o7777;
    // Read and write for group and others; execute harms nobody.
    if mode & 0o066 != 0 {
        return Err(SecretError::Exposed { mode });
    }
    Ok(())
}

/// A path as one may paste it into a shell.
fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '+' | '@');
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn from(content: &[u8]) -> Result<Psk, SecretError> {
        from_content(Zeroizing::new(content.to_vec()))
    }

    fn psk(key: &[u8]) -> Psk {
        Psk::new(key).unwrap()
    }

    #[test]
    fn one_newline_at_the_end_is_not_part_of_the_key() {
        for content in [&b"key"[..], b"key\n", b"key\r\n"] {
            assert_eq!(from(content).unwrap(), psk(b"key"));
        }
        assert_eq!(from(b" spaces count ").unwrap(), psk(b" spaces count "));
        assert_eq!(from("schlüssel".as_bytes()).unwrap(), psk("schlüssel".as_bytes()));
    }

    #[test]
    fn contents_that_are_no_key_are_refused() {
        for content in [&b""[..], b"\n", b"\r\n"] {
            assert!(matches!(from(content), Err(SecretError::Empty)), "{content:?}");
        }
        for (content, at) in [(&b"key\n\n"[..], 4), (b"one\ntwo", 4), (b"\x00", 1), (b"ab\x7f", 3)] {
            assert!(
                matches!(from(content), Err(SecretError::Control { position }) if position == at),
                "{content:?}"
            );
        }
    }

    #[test]
    fn permissions_are_checked_on_the_open_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.psk");
        std::fs::write(&path, "key\n").unwrap();
        for (mode, sound) in
            [(0o600, true), (0o400, true), (0o700, true), (0o640, false), (0o604, false), (0o620, false)]
        {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            match read(&path, FileKind::Secret).and_then(from_content) {
                Ok(secret) => assert!(sound && secret == psk(b"key"), "{mode:o}"),
                Err(error) => assert!(
                    !sound && matches!(error, SecretError::Exposed { mode: m } if m == mode),
                    "{error}"
                ),
            }
        }
        assert!(matches!(read(folder.path(), FileKind::Secret), Err(SecretError::NotAFile)));
        assert!(read(&path, FileKind::Public).is_ok(), "certificates are for everybody");
        let metadata = std::fs::metadata(folder.path()).unwrap();
        assert!(matches!(check(&metadata, 0), Err(SecretError::NotAFile)));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, vec![b'x'; 4097]).unwrap();
        assert!(matches!(read(&path, FileKind::Secret), Err(SecretError::TooLarge { most: 4096 })));
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.psk");
        std::fs::write(&path, "key").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert!(check(&metadata, metadata.uid()).is_ok());
        if metadata.uid() != 0 || std::os::unix::fs::chown(&path, Some(1234), None).is_ok() {
            let metadata = std::fs::metadata(&path).unwrap();
            assert!(matches!(check(&metadata, metadata.uid() + 1), Err(SecretError::Owner { .. })));
        }
    }

    #[test]
    fn mends_can_be_pasted() {
        let exposed = SecretError::Exposed { mode: 0o644 };
        assert_eq!(exposed.mend(Path::new("/etc/a.psk")), "run `chmod 600 /etc/a.psk`");
        assert_eq!(exposed.mend(Path::new("/a b/it's")), r"run `chmod 600 '/a b/it'\''s'`");
    }
}
