//! XAuth of IKEv1: the user that this side is, or the users of whom the peer must be one.

use std::ops::Range;
use std::path::Path;

use culvert_ike::{Psk, Xauth, XauthUser};

use crate::auth;
use crate::error::Fault;
use crate::secret::Files;
use crate::section::{At, Section};

/// `xauth_user` and `xauth_password_file`.
#[derive(Clone, Default)]
pub(crate) struct RawXauth {
    user: Option<At<String>>,
    password_file: Option<At<String>>,
}

impl RawXauth {
    pub(crate) fn read(s: &mut Section<'_>, faults: &mut Vec<Fault>) -> Self {
        let user = |text: &At<&str>, faults: &mut Vec<Fault>| {
            let fits = (1..=255).contains(&text.get_ref().len());
            if !fits {
                faults.push(
                    Fault::new("`xauth_user` must have 1 to 255 bytes")
                        .at(text.span(), "no user name")
                        .help("write the name that the peer's administrator gave"),
                );
            }
            fits.then(|| (*text.get_ref()).to_owned())
        };
        let file = |text: &At<&str>, faults: &mut Vec<Fault>| {
            let fits = !text.get_ref().is_empty();
            if !fits {
                faults.push(
                    Fault::new("an empty path names no file")
                        .at(text.span(), "no path")
                        .help("write a path such as \"secrets/NAME.pass\""),
                );
            }
            fits.then(|| (*text.get_ref()).to_owned())
        };
        Self {
            user: s.parsed(faults, "xauth_user", "a user name", user),
            password_file: s.parsed(faults, "xauth_password_file", "the path of a file", file),
        }
    }

    /// Takes what is not said here from another tunnel.
    pub(crate) fn fill(&mut self, other: &Self) {
        for (own, other) in [(&mut self.user, &other.user), (&mut self.password_file, &other.password_file)] {
            if own.is_none() {
                own.clone_from(other);
            }
        }
    }

    /// Where it stands, if it does.
    pub(crate) fn span(&self) -> Option<Range<usize>> {
        self.user.as_ref().or(self.password_file.as_ref()).map(At::span)
    }

    /// Reads the files. `users`: the file with those of whom the peer must be one.
    pub(crate) fn check(
        &self,
        users: Option<&At<String>>,
        folder: &Path,
        files: Files<'_>,
        faults: &mut Vec<Fault>,
    ) -> Option<Xauth> {
        if let (Some(users), Some(span)) = (users, self.span()) {
            faults.push(
                Fault::new("in XAuth one side asks and the other is asked")
                    .at(users.span(), "this side asks")
                    .at(span, "this side is asked")
                    .help("take one of them out"),
            );
            return None;
        }
        if let Some(users) = users {
            let all = auth::read_users(users, folder, files, faults, |password| Psk::new(password).ok())?;
            let user = |(name, password)| XauthUser { name, password };
            return Some(Xauth::Server(all.into_iter().map(user).collect()));
        }
        match (&self.user, &self.password_file) {
            (Some(user), Some(file)) => {
                let password = auth::read_psk(file, folder, files, faults)?;
                Some(Xauth::Client(XauthUser { name: user.get_ref().clone(), password }))
            }
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => {
                faults.push(
                    Fault::new("`xauth_user` and `xauth_password_file` go together")
                        .at(one.span(), "alone")
                        .help("write both, or neither"),
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{parse, with};

    fn xauth(tunnel: &str) -> Result<Option<Xauth>, String> {
        let config = parse(&with("ike = { version = 1 }", tunnel)).map_err(|e| e.to_string())?;
        Ok(config.connections[0].tunnels[0].xauth.clone())
    }

    #[test]
    fn one_side_asks_and_the_other_is_asked() {
        assert_eq!(xauth(""), Ok(None));
        let Ok(Some(Xauth::Server(users))) = xauth("users_file = \"users\"") else { panic!() };
        let names: Vec<&str> = users.iter().map(|u| u.name.as_str()).collect();
        assert_eq!(names, ["jane", "joe"]);
        assert_eq!(users[1].password, Psk::new("sesame street").unwrap());
        let client = "xauth_user = \"joe\"\nxauth_password_file = \"good.psk\"";
        assert!(matches!(xauth(client), Ok(Some(Xauth::Client(user))) if user.name == "joe"));
        for (wrong, says) in [
            (&*format!("{client}\nusers_file = \"users\""), "one side asks"),
            ("xauth_user = \"joe\"", "go together"),
            ("users_file = \"good.psk\"", "is not user:password"),
        ] {
            let error = xauth(wrong).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let error = parse(&with("", client)).unwrap_err().to_string();
        assert!(error.contains("belongs to IKEv1"), "{error}");
    }
}
