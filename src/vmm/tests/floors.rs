//! The modules of this crate are floors, each built only from those below it. An import that runs upward is a defect.
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// From the ground up. Modules on one floor may use each other.
const FLOORS: &[&[&str]] = &[
    &["config"],
    &["kvm"],
    &[
        "bus",
        "irq",
        "memory",
        "rate_limit",
        "metrics",
        "notices",
        "timeline",
        "worker",
    ],
    &["usernet"],
    &["vcpu"],
    &["arch"],
    &["boot"],
    &["legacy", "pci"],
    &["virtio"],
    &["sandbox"],
    &["snapshot"],
    &["machine"],
    // For tests: it may use everything, and nothing uses it.
    &["testing"],
];

/// Imports that run upward, and why: file, module imported, reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// An import: the file, and the module of the crate that it names.
type Import = (String, String);

#[test]
fn imports_run_downward() {
    let upward: BTreeSet<Import> = imports()
        .into_iter()
        .filter(|(file, module)| floor(module) > floor(top(file)))
        .collect();
    let excepted: BTreeSet<Import> = EXCEPTIONS
        .iter()
        .map(|(file, module, _)| (file.to_string(), module.to_string()))
        .collect();
    let new: Vec<_> = upward.difference(&excepted).collect();
    assert!(
        new.is_empty(),
        "imports that run upward (file, module): {new:#?}"
    );
    let gone: Vec<_> = excepted.difference(&upward).collect();
    assert!(
        gone.is_empty(),
        "no longer needed among the exceptions: {gone:#?}"
    );
}

#[test]
fn imports_are_found_in_every_form() {
    let found = |text: &str| -> Vec<String> { named_modules(text) };
    assert_eq!(found("use crate::kvm::Vm;"), ["kvm"]);
    assert_eq!(
        found(
            "use crate::{\n    arch::x86_64::{cpuid, msr},\n    bus,\n    irq::Line as Wire,\n};"
        ),
        ["arch", "bus", "irq"]
    );
    assert_eq!(found("fn f() -> crate::vcpu::Exit {}"), ["vcpu"]);
    assert_eq!(found("// crate::machine is above\n"), Vec::<String>::new());
    assert_eq!(
        found("use crate::bus;\n#[cfg(test)]\nmod tests { use crate::machine; }"),
        ["bus"]
    );
}

/// The floor of a module, counted from the ground.
fn floor(module: &str) -> usize {
    FLOORS
        .iter()
        .position(|floor| floor.contains(&module))
        .unwrap_or_else(|| panic!("the module {module} has no floor yet: give it one here"))
}

/// The top-level module that a file belongs to.
fn top(file: &str) -> &str {
    let first = file.split('/').next().unwrap_or(file);
    first.strip_suffix(".rs").unwrap_or(first)
}

fn imports() -> Vec<Import> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    assert!(files.len() > 10, "the sources are not where they were");
    let mut imports = Vec::new();
    for path in files {
        let file = path
            .strip_prefix(&source)
            .expect("found below it")
            .to_string_lossy()
            .into_owned();
        // The root only names the modules; tests may look up.
        if file == "lib.rs" || file.split(['/', '.']).any(|part| part == "tests") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("sources are readable");
        imports.extend(
            named_modules(&text)
                .into_iter()
                .map(|module| (file.clone(), module)),
        );
    }
    imports
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("its entries are readable").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The modules that a file's code names by `crate::`, its tests left out: they stand at its end.
fn named_modules(text: &str) -> Vec<String> {
    let code: String = text
        .split("#[cfg(test)]\nmod ")
        .next()
        .unwrap_or(text)
        .lines()
        .map(|line| line.split("//").next().unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n");
    let mut modules = Vec::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            Some(group) => modules.extend(heads(group)),
            None => modules.extend(identifier(after)),
        }
    }
    modules
}

/// What the items of a `use` group begin with.
fn heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0_usize;
    let mut item = String::new();
    for character in group.chars() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.extend(identifier(&std::mem::take(&mut item))),
            _ if depth == 0 => item.push(character),
            _ => {}
        }
    }
    heads.extend(identifier(&item));
    heads
}

/// The name that a text begins with; none if it is no module's, which are in lower case.
fn identifier(text: &str) -> Option<String> {
    let name: String = text
        .trim_start()
        .chars()
        .take_while(|character| character.is_alphanumeric() || *character == '_')
        .collect();
    name.starts_with(|first: char| first.is_ascii_lowercase())
        .then_some(name)
}
