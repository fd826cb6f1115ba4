//! How to get a guest kernel on this host.
use std::path::Path;

use super::Roots;
use super::trail::{Rejection, Trail};
use crate::paths::shell_word;

/// The family of Linux distributions, as far as the command that supplies a kernel depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Debian, with its cloud kernel.
    Debian,
    /// Ubuntu and what is made from it.
    Ubuntu,
    /// Fedora, RHEL and what is made from them.
    Fedora,
    /// Any other.
    Other,
}

impl Distribution {
    /// Reads `/etc/os-release` below `root`.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        let text = std::fs::read_to_string(root.join("etc/os-release")).unwrap_or_default();
        Self::from_os_release(&text)
    }

    fn from_os_release(text: &str) -> Self {
        let value = |key: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default()
                .trim_matches(['"', '\''])
                .to_owned()
        };
        let ids = format!("{} {}", value("ID"), value("ID_LIKE"));
        for id in ids.split_whitespace() {
            match id {
                "debian" => return Self::Debian,
                "ubuntu" => return Self::Ubuntu,
                "fedora" | "rhel" | "centos" => return Self::Fedora,
                _ => {}
            }
        }
        Self::Other
    }
}

/// What supplies a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Supply {
    pub(super) command: Option<String>,
    pub(super) advice: String,
}

/// The cheapest way to a kernel: make one readable that is there, else fetch one without touching the host.
pub(super) fn supply(trail: &Trail, roots: &Roots) -> Supply {
    let forbidden = trail
        .candidates()
        .find(|candidate| candidate.rejected == Some(Rejection::PermissionDenied));
    if let Some(candidate) = forbidden {
        return Supply {
            command: Some(format!("sudo chmod +r {}", shell_word(&candidate.path))),
            advice: "make the kernel readable, or name another with --kernel".to_owned(),
        };
    }
    let command = match (roots.distribution, &roots.data) {
        (Distribution::Debian, Some(data)) => Some(download("linux-image-cloud-amd64", data)),
        (Distribution::Ubuntu, Some(data)) => Some(download("linux-image-virtual", data)),
        (Distribution::Debian, None) => {
            Some("sudo apt-get install linux-image-cloud-amd64".to_owned())
        }
        (Distribution::Fedora, _) => Some("sudo dnf install kernel-core".to_owned()),
        (Distribution::Ubuntu, None) | (Distribution::Other, _) => None,
    };
    Supply {
        command,
        advice: "name a kernel (bzImage or vmlinux) with --kernel".to_owned(),
    }
}

/// Fetches the kernel package that `package` depends on and takes the kernel and its modules out of it, installing nothing on the host.
fn download(package: &str, data: &Path) -> String {
    format!(
        "cd \"$(mktemp -d)\" && apt-get download \"$(apt-cache depends --important {package} | sed -n 's/^ *Depends: \\(linux-image-\\)/\\1/p' | head -n 1)\" \
         && dpkg-deb -x linux-image-*.deb . && {{ [ -e lib ] || ln -s usr/lib lib; }} && mkdir -p lib/modules {data} && PATH=$PATH:/sbin \
         && for release in $(ls lib/modules); do depmod -b . $release; done && cp -r boot/vmlinuz-* lib/modules {data}/",
        data = shell_word(data)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_known_by_their_own_or_their_parents_name() {
        let of = Distribution::from_os_release;
        assert_eq!(
            of("PRETTY_NAME=\"Debian 12\"\nID=debian\nVERSION_ID=\"12\"\n"),
            Distribution::Debian
        );
        assert_eq!(of("ID=ubuntu\nID_LIKE=debian\n"), Distribution::Ubuntu);
        assert_eq!(
            of("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"),
            Distribution::Ubuntu
        );
        assert_eq!(
            of("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"),
            Distribution::Fedora
        );
        assert_eq!(of("ID=nixos\n"), Distribution::Other);
        assert_eq!(of(""), Distribution::Other);
    }
}
