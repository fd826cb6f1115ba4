use std::fs;

use super::*;

/// A host with a data directory and a `/boot`, both empty.
struct Fixture {
    directory: tempfile::TempDir,
    roots: Roots,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data/kernel");
        let boot = directory.path().join("boot");
        fs::create_dir_all(&data).unwrap();
        fs::create_dir_all(&boot).unwrap();
        let roots = Roots {
            data: Some(data),
            boot,
            distribution: Distribution::Debian,
        };
        Self { directory, roots }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn add_kernels(&self, names: &[&str]) {
        for name in names {
            fs::write(self.path(name), bzimage()).unwrap();
        }
    }

    fn find(&self) -> Result<Found, NotFound> {
        find(None, None, &self.roots)
    }

    fn assert_finds(&self, name: &str) {
        assert_eq!(self.find().unwrap().path, self.path(name));
    }
}

fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 0x300];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image
}

fn rejection<'a>(trail: &'a Trail, path: &Path) -> &'a Rejection {
    let candidate = trail.candidates().find(|candidate| candidate.path == path);
    candidate.unwrap().rejected.as_ref().unwrap()
}

#[test]
fn the_option_wins_over_everything_else() {
    let host = Fixture::new();
    host.add_kernels(&[
        "mine",
        "other",
        "data/kernel/vmlinux-6.12",
        "boot/vmlinuz-6.1",
    ]);
    let other = host.path("other");
    let found = find(
        Some(&host.path("mine")),
        Some(other.as_os_str()),
        &host.roots,
    )
    .unwrap();
    assert_eq!(
        (found.path, found.origin),
        (host.path("mine"), Origin::Option)
    );
}

#[test]
fn the_variable_wins_over_the_directories() {
    let host = Fixture::new();
    host.add_kernels(&["other", "data/kernel/vmlinux-6.12"]);
    let other = host.path("other");
    let found = find(None, Some(other.as_os_str()), &host.roots).unwrap();
    assert_eq!((found.path, found.origin), (other, Origin::Variable));
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let host = Fixture::new();
    host.add_kernels(&["boot/vmlinuz-6.1"]);
    let found = find(None, Some(OsStr::new("")), &host.roots).unwrap();
    assert_eq!(found.origin, Origin::Boot);
}

#[test]
fn what_is_named_is_never_replaced_by_something_else() {
    let host = Fixture::new();
    host.add_kernels(&["other", "boot/vmlinuz-6.1"]);
    let (missing, other) = (host.path("missing"), host.path("other"));
    let error = find(Some(&missing), Some(other.as_os_str()), &host.roots).unwrap_err();
    let expected = format!(
        "no guest kernel: --kernel {}: no such file",
        missing.display()
    );
    assert_eq!(error.to_string(), expected);
    let error = find(None, Some(missing.as_os_str()), &host.roots).unwrap_err();
    assert!(error.to_string().contains("$AMPOULE_KERNEL"), "{error}");
}

#[test]
fn what_is_named_may_have_any_contents_for_the_boot_code_to_judge() {
    let host = Fixture::new();
    fs::write(host.path("odd"), "not a kernel").unwrap();
    assert!(find(Some(&host.path("odd")), None, &host.roots).is_ok());
}

#[test]
fn the_data_directory_wins_over_boot_however_old_its_kernel() {
    let host = Fixture::new();
    host.add_kernels(&["data/kernel/vmlinux-4.19", "boot/vmlinuz-6.12-cloud-amd64"]);
    host.assert_finds("data/kernel/vmlinux-4.19");
}

#[test]
fn in_the_data_directory_the_release_decides_not_the_kind_of_file() {
    let host = Fixture::new();
    host.add_kernels(&[
        "data/kernel/vmlinuz-6.9",
        "data/kernel/vmlinux-6.12",
        "data/kernel/bzImage",
    ]);
    host.assert_finds("data/kernel/vmlinux-6.12");
}

#[test]
fn in_boot_cloud_flavours_come_before_newer_others() {
    let host = Fixture::new();
    host.add_kernels(&[
        "boot/vmlinuz-6.12.9-amd64",
        "boot/vmlinuz-6.1.0-9-cloud-amd64",
        "boot/vmlinuz-6.1.0-47-cloud-amd64",
    ]);
    host.assert_finds("boot/vmlinuz-6.1.0-47-cloud-amd64");
}

#[test]
fn unusable_files_are_passed_over_and_the_trail_says_why() {
    let host = Fixture::new();
    host.add_kernels(&[
        "boot/vmlinuz-6.1",
        "boot/vmlinuz-6.0",
        "boot/vmlinuz-6.8.old",
    ]);
    fs::write(host.path("boot/vmlinuz-6.7"), "").unwrap();
    fs::write(host.path("boot/vmlinuz-6.6"), "MZ, and then nothing").unwrap();
    fs::create_dir(host.path("boot/vmlinuz-6.5")).unwrap();
    std::os::unix::fs::symlink("gone", host.path("boot/vmlinuz-6.4")).unwrap();
    let found = host.find().unwrap();
    assert_eq!(found.path, host.path("boot/vmlinuz-6.1"));
    let reason = |name: &str| rejection(&found.trail, &host.path(name)).clone();
    assert_eq!(reason("boot/vmlinuz-6.8.old"), Rejection::LeftOver);
    assert_eq!(reason("boot/vmlinuz-6.7"), Rejection::Empty);
    assert_eq!(reason("boot/vmlinuz-6.6"), Rejection::NotAKernel);
    assert_eq!(
        reason("boot/vmlinuz-6.5"),
        Rejection::NotAFile("a directory")
    );
    assert_eq!(reason("boot/vmlinuz-6.4"), Rejection::Missing);
    assert_eq!(reason("boot/vmlinuz-6.0"), Rejection::Outranked);
}

#[test]
fn a_named_pipe_in_boot_does_not_hang_the_search() {
    let host = Fixture::new();
    let pipe = host.path("boot/vmlinuz-6.1");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let error = host.find().unwrap_err();
    assert_eq!(
        rejection(&error.trail, &pipe),
        &Rejection::NotAFile("a named pipe")
    );
}

#[test]
fn files_of_other_names_are_not_candidates() {
    let host = Fixture::new();
    host.add_kernels(&[
        "boot/initrd.img-6.1",
        "boot/vmlinuz",
        "data/kernel/config-6.12",
    ]);
    assert_eq!(host.find().unwrap_err().trail.candidates().count(), 0);
}

#[test]
fn a_kernel_that_only_root_may_read_is_mended_by_chmod() {
    let host = Fixture::new();
    host.add_kernels(&[
        "boot/vmlinuz-6.8.0-50-generic",
        "boot/vmlinuz-6.8.0-49-generic",
    ]);
    let forbid = |_: &Path, _: bool| Err(Rejection::PermissionDenied);
    let error = find_with(None, None, &host.roots, &forbid).unwrap_err();
    let newest = host.path("boot/vmlinuz-6.8.0-50-generic");
    assert_eq!(error.hint(), format!("sudo chmod +r {}", newest.display()));
    let text = error.to_string();
    assert!(
        text.ends_with("permission denied (and 1 more not usable)"),
        "{text}"
    );
}

#[test]
fn a_host_without_kernels_is_told_how_to_fetch_one() {
    let host = Fixture::new();
    let error = host.find().unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("no guest kernel: /"), "{text}");
    assert!(text.ends_with("/boot has no kernel"), "{text}");
    assert!(
        error.hint().contains("linux-image-cloud-amd64"),
        "{}",
        error.hint()
    );
    assert!(error.hint().contains("/data/kernel "), "{}", error.hint());
}

#[test]
fn a_host_without_directories_is_told_so() {
    let mut host = Fixture::new();
    host.roots.data = None;
    host.roots.boot = host.path("nothing");
    host.roots.distribution = Distribution::Other;
    let error = host.find().unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("neither XDG_DATA_HOME nor HOME is set"),
        "{text}"
    );
    assert!(text.ends_with("/nothing does not exist"), "{text}");
    assert_eq!(
        (error.command(), error.hint().as_str()),
        (None, error.advice())
    );
}

#[test]
fn the_printed_trail_has_a_line_for_each_place_and_candidate() {
    let host = Fixture::new();
    host.add_kernels(&["boot/vmlinuz-6.1", "boot/vmlinuz-6.0"]);
    let printed = host.find().unwrap().trail.to_string();
    let printed = printed.replace(host.directory.path().to_str().unwrap(), "");
    let expected = "kernel search: --kernel: not given\n\
                    kernel search: $AMPOULE_KERNEL: not given\n\
                    kernel search: data directory: /data/kernel has no kernel\n\
                    kernel search: host's kernels: /boot/vmlinuz-6.1: chosen\n\
                    kernel search: host's kernels: /boot/vmlinuz-6.0: comes after the chosen one\n";
    assert_eq!(printed, expected);
}
