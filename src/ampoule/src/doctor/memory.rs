//! Guest memory.
use super::host::Host;
use super::report::{Check, Group, Topic};
use crate::kernel_search::version;

const MEMORY: Topic = Topic {
    group: Group::Memory,
    id: "memory",
    title: "Memory",
    why: "a guest has 512 MiB unless told otherwise, and takes of it what it touches",
};
const HUGE_PAGES: Topic = Topic {
    group: Group::Memory,
    id: "huge-pages",
    title: "Huge pages, 2 MiB",
    why: "guests can be given reserved huge pages, on request",
};
const TRANSPARENT: Topic = Topic {
    group: Group::Memory,
    id: "transparent-huge-pages",
    title: "Transparent huge pages",
    why: "they spare a guest most of its page faults and TLB misses",
};
const NX_HUGE_PAGES: Topic = Topic {
    group: Group::Memory,
    id: "nx-huge-pages",
    title: "KVM nx_huge_pages",
    why: "unless it is `never`, KVM starts a thread for every VM, which costs launch time, against a defect of some processors",
};

const NX_PARAMETER: &str = "/sys/module/kvm/parameters/nx_huge_pages";
const ITLB_MULTIHIT: &str = "/sys/devices/system/cpu/vulnerabilities/itlb_multihit";
/// What the kernel writes there for processors without the defect.
const UNAFFECTED: &str = "Not affected";

pub(super) fn examine(host: &Host) -> Vec<Check> {
    vec![
        memory(host),
        huge_pages(host),
        transparent_huge_pages(host),
        nx_huge_pages(host),
    ]
}

fn memory(host: &Host) -> Check {
    let text = host.read("/proc/meminfo").unwrap_or_default();
    let mebibytes = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        let kibibytes: u64 = line
            .trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()?;
        Some(kibibytes / 1024)
    };
    let (Some(total), Some(available)) = (mebibytes("MemTotal"), mebibytes("MemAvailable")) else {
        return MEMORY.info("not known");
    };
    let found = format!("{available} MiB available of {total} MiB");
    if available < 512 {
        MEMORY
            .warning(found)
            .advise("give guests less (--memory), or free some")
    } else {
        MEMORY.ok(found)
    }
}

fn huge_pages(host: &Host) -> Check {
    let read = |name: &str| host.read(&format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}"));
    match (read("nr_hugepages"), read("free_hugepages")) {
        (Some(total), _) if total == "0" => HUGE_PAGES
            .info("none reserved")
            .mend("sudo sysctl vm.nr_hugepages=256"),
        (Some(total), Some(free)) => HUGE_PAGES.ok(format!("{free} free of {total}")),
        _ => HUGE_PAGES.info("not in this kernel"),
    }
}

fn transparent_huge_pages(host: &Host) -> Check {
    let Some(modes) = host.read("/sys/kernel/mm/transparent_hugepage/enabled") else {
        return TRANSPARENT.info("not in this kernel");
    };
    let mode = modes.split_whitespace().find(|mode| mode.starts_with('['));
    match mode.map(|mode| mode.trim_matches(['[', ']'])) {
        Some(mode @ ("always" | "madvise")) => TRANSPARENT.ok(mode),
        Some(mode) => TRANSPARENT
            .warning(mode)
            .mend("echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"),
        None => TRANSPARENT.info(format!("not known: {modes}")),
    }
}

/// `never` can only be recommended to processors without the defect, and only the kernel knows those.
fn nx_huge_pages(host: &Host) -> Check {
    let Some(value) = host.read(NX_PARAMETER) else {
        return NX_HUGE_PAGES.info("not known: kvm is not loaded, or too old to have it");
    };
    let defect = host.read(ITLB_MULTIHIT);
    match (value.as_str(), defect.as_deref()) {
        ("never", Some(UNAFFECTED)) => NX_HUGE_PAGES.ok("never; this processor does not need it"),
        (_, Some(UNAFFECTED)) => recommend_never(host, &value),
        ("Y", _) => NX_HUGE_PAGES.ok("on; leave it so: this processor may need it"),
        (_, Some(defect)) => {
            NX_HUGE_PAGES.info(format!("{value}; this processor may need it ({defect})"))
        }
        (_, None) => NX_HUGE_PAGES.info(format!(
            "{value}; whether this processor needs it is not known"
        )),
    }
}

fn recommend_never(host: &Host, value: &str) -> Check {
    let found = format!("{value}; `never` would do: this processor does not need it");
    // Older kernels take `never` for `N`: the thread is started all the same.
    let release = host.system.release();
    if version::compare(release.as_bytes(), b"6.5").is_lt() {
        return NX_HUGE_PAGES.info(format!("{value}; `never` would do, from Linux 6.5 on"));
    }
    let now = format!("echo never | sudo tee {NX_PARAMETER}");
    let check = NX_HUGE_PAGES.warning(found);
    if host.takes_modules() {
        let later = "echo options kvm nx_huge_pages=never | sudo tee /etc/modprobe.d/ampoule.conf";
        check
            .mend(format!("{now} && {later}"))
            .advise("stop all guests first: it is refused while any runs")
    } else {
        check.mend(now).advise(
            "stop all guests first; for good: kvm.nx_huge_pages=never on the kernel's command line",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::super::testing::FakeHost;
    use super::*;

    fn nx(value: &str, defect: &str) -> Check {
        FakeHost::intel()
            .with_file(NX_PARAMETER, value)
            .with_file(ITLB_MULTIHIT, defect)
            .check("nx-huge-pages")
    }

    #[test]
    fn never_is_recommended_only_where_the_processor_is_not_affected() {
        for value in ["Y\n", "N\n"] {
            let mend = nx(value, "Not affected\n").mend.unwrap();
            assert!(mend.starts_with("echo never | sudo tee "), "{mend}");
            assert!(mend.ends_with("/etc/modprobe.d/ampoule.conf"), "{mend}");
        }
        for defect in [
            "KVM: Mitigation: Split huge pages",
            "KVM: Vulnerable",
            "Processor vulnerable",
            "Unknown",
        ] {
            for value in ["Y", "N", "never"] {
                assert_eq!(nx(value, defect).mend, None, "{value}, {defect}");
            }
        }
    }

    #[test]
    fn never_is_not_recommended_to_kernels_that_take_it_for_no() {
        let host = FakeHost::intel()
            .with_file(NX_PARAMETER, "N")
            .with_file(ITLB_MULTIHIT, UNAFFECTED)
            .with_system(|system| system.release = "6.1.0-47-amd64");
        assert_eq!(host.check("nx-huge-pages").status, Status::Info);
    }

    #[test]
    fn never_on_an_unaffected_processor_is_fine() {
        assert_eq!(nx("never", "Not affected").status, Status::Ok);
    }

    #[test]
    fn the_mitigation_of_an_affected_processor_is_left_alone() {
        assert_eq!(
            nx("Y", "KVM: Mitigation: Split huge pages").status,
            Status::Ok
        );
    }

    #[test]
    fn without_the_parameter_nothing_is_recommended() {
        let check = FakeHost::intel()
            .with_file(ITLB_MULTIHIT, "Not affected")
            .check("nx-huge-pages");
        assert_eq!((check.status, check.mend), (Status::Info, None));
    }

    #[test]
    fn reserved_huge_pages_are_counted() {
        let directory = "/sys/kernel/mm/hugepages/hugepages-2048kB";
        let host = FakeHost::intel()
            .with_file(&format!("{directory}/nr_hugepages"), "256\n")
            .with_file(&format!("{directory}/free_hugepages"), "250\n");
        assert_eq!(host.check("huge-pages").found, "250 free of 256");
    }

    #[test]
    fn the_mode_of_transparent_huge_pages_is_the_one_in_brackets() {
        let check = |modes: &str| {
            let host = FakeHost::intel();
            host.with_file("/sys/kernel/mm/transparent_hugepage/enabled", modes)
                .check("transparent-huge-pages")
        };
        assert_eq!(check("always [madvise] never").found, "madvise");
        assert_eq!(check("always madvise [never]").status, Status::Warning);
    }

    #[test]
    fn too_little_memory_for_a_guest_is_a_warning() {
        let meminfo = "MemTotal:        2000000 kB\nMemFree:  1 kB\nMemAvailable:     204800 kB\n";
        let check = FakeHost::intel()
            .with_file("/proc/meminfo", meminfo)
            .check("memory");
        assert_eq!(
            (check.status, check.found.as_str()),
            (Status::Warning, "200 MiB available of 1953 MiB")
        );
    }
}
