use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn user(home: &str) -> Environment {
    Environment {
        home: Some(home.into()),
        uid: 1000,
        ..Environment::default()
    }
}

fn paths_with_state(state: PathBuf, state_is_in_tmp: bool) -> Paths {
    Paths {
        state,
        data: None,
        cache: None,
        uid: rustix::process::geteuid().as_raw(),
        state_is_in_tmp,
    }
}

#[test]
fn absolute_xdg_variables_are_followed() {
    let paths = Paths::new(&Environment {
        runtime_dir: Some("/run/user/1000".into()),
        data_home: Some("/d".into()),
        cache_home: Some("/c".into()),
        ..user("/home/u")
    });
    assert_eq!(paths.state, Path::new("/run/user/1000/ampoule"));
    assert_eq!(paths.data.as_deref(), Some(Path::new("/d/ampoule")));
    assert_eq!(paths.cache.as_deref(), Some(Path::new("/c/ampoule")));
    assert_eq!(
        paths.kernels().as_deref(),
        Some(Path::new("/d/ampoule/kernel"))
    );
}

#[test]
fn relative_and_empty_xdg_variables_are_ignored() {
    let paths = Paths::new(&Environment {
        runtime_dir: Some("run".into()),
        data_home: Some("".into()),
        cache_home: Some("./c".into()),
        ..user("/home/u")
    });
    assert_eq!(paths.state, Path::new("/tmp/ampoule-1000"));
    assert_eq!(
        paths.data.as_deref(),
        Some(Path::new("/home/u/.local/share/ampoule"))
    );
    assert_eq!(
        paths.cache.as_deref(),
        Some(Path::new("/home/u/.cache/ampoule"))
    );
}

#[test]
fn without_a_home_there_is_no_data_and_no_cache_directory() {
    for home in [None, Some("".into()), Some("relative".into())] {
        let paths = Paths::new(&Environment { home, ..user("") });
        assert_eq!((paths.data, paths.cache), (None, None));
    }
}

#[test]
fn root_keeps_its_state_in_run_whatever_its_session_says() {
    let root = Environment {
        runtime_dir: Some("/run/user/0".into()),
        ..Environment::default()
    };
    assert_eq!(Paths::new(&root).state, Path::new("/run/ampoule"));
}

#[test]
fn a_new_state_directory_is_private_and_opens_again() {
    let temporary = tempfile::tempdir().unwrap();
    let paths = paths_with_state(temporary.path().join("ampoule"), true);
    let _first = paths.open_state().unwrap();
    let _second = paths.open_state().unwrap();
    let mode = fs::metadata(&paths.state).unwrap().mode() & 0o7777;
    assert_eq!(mode, 0o700);
}

#[test]
fn a_state_directory_that_others_may_enter_is_refused_in_tmp_only() {
    let temporary = tempfile::tempdir().unwrap();
    let state = temporary.path().join("ampoule");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    let error = paths_with_state(state.clone(), true)
        .open_state()
        .unwrap_err();
    assert!(
        matches!(error, StateError::Mode { mode: 0o755, .. }),
        "{error}"
    );
    assert!(error.hint().starts_with("chmod 700 /"), "{}", error.hint());
    assert!(paths_with_state(state, false).open_state().is_ok());
}

#[test]
fn a_state_directory_that_others_may_write_is_refused_anywhere() {
    let temporary = tempfile::tempdir().unwrap();
    let state = temporary.path().join("ampoule");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o1777)).unwrap();
    let error = paths_with_state(state, false).open_state().unwrap_err();
    assert!(matches!(error, StateError::Mode { .. }), "{error}");
}

#[test]
fn somebody_elses_state_directory_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let mut paths = paths_with_state(temporary.path().join("ampoule"), true);
    fs::create_dir(&paths.state).unwrap();
    paths.uid += 1;
    let error = paths.open_state().unwrap_err();
    assert!(matches!(error, StateError::Owner { .. }), "{error}");
}

#[test]
fn a_link_or_a_file_in_place_of_the_state_directory_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let (link, file) = (temporary.path().join("link"), temporary.path().join("file"));
    symlink(temporary.path(), &link).unwrap();
    fs::write(&file, "").unwrap();
    for state in [link, file] {
        let error = paths_with_state(state, true).open_state().unwrap_err();
        assert!(matches!(error, StateError::Open { .. }), "{error}");
    }
}

#[test]
fn a_missing_runtime_directory_is_an_error_that_says_what_to_try() {
    let temporary = tempfile::tempdir().unwrap();
    let paths = paths_with_state(temporary.path().join("gone/ampoule"), false);
    let error = paths.open_state().unwrap_err();
    assert!(matches!(error, StateError::Create { .. }), "{error}");
    assert!(error.hint().contains("XDG_RUNTIME_DIR"));
}

#[test]
fn shell_words_are_quoted_only_where_they_must_be() {
    assert_eq!(
        shell_word(Path::new("/boot/vmlinuz-6.1")),
        "/boot/vmlinuz-6.1"
    );
    assert_eq!(shell_word(Path::new("/a b")), "'/a b'");
    assert_eq!(shell_word(Path::new("/it's")), r"'/it'\''s'");
}

#[test]
fn root_of_a_user_namespace_keeps_its_state_like_a_user() {
    let mapped = Environment {
        runtime_dir: Some("/run/user/1000".into()),
        in_user_namespace: true,
        ..Environment::default()
    };
    assert_eq!(
        Paths::new(&mapped).state,
        Path::new("/run/user/1000/ampoule")
    );
}
