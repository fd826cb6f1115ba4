//! Processors: how many there are, how they are arranged, what they say they can.
use ampoule_tests::linux::{MACHINE, Report, WITHOUT_THE_LABS_QUIRK, linux};

const PROCESSORS: &str = "\
cd /sys/devices/system/cpu
echo present=$(cat present)
echo online=$(cat online)
for cpu in cpu[0-9]*; do
    cd $cpu/topology
    echo $cpu=$(cat thread_siblings_list) $(cat core_siblings_list) $(cat core_id) $(cat physical_package_id)
    cd ../..
done
echo flags=$(sed -n 's/^flags[^:]*: //p' /proc/cpuinfo | head -n 1)
echo caches=$(cat cpu0/cache/index*/shared_cpu_list)
echo clocks=$(cat /sys/devices/system/clocksource/clocksource0/available_clocksource)
";

fn processors(count: u32, parameters: &str) -> Report {
    linux()
        .with(&format!("--memory 512M --cpus {count}"))
        .parameters(parameters)
        .script(&format!("{PROCESSORS}{MACHINE}"))
        .report()
}

#[test]
fn one_processor() {
    let report = processors(1, WITHOUT_THE_LABS_QUIRK);
    assert_eq!(report.value("online"), "0");
    assert_eq!(report.value("cpu0"), "0 0 0 0");
    assert_eq!(report.complaints(), [""; 0]);
}

#[test]
fn sixteen_processors_are_sixteen_cores_of_one_package() {
    let report = processors(16, WITHOUT_THE_LABS_QUIRK);
    assert_eq!(report.value("online"), "0-15");
    assert_eq!(report.number("cpus"), 16);
    for cpu in 0..16 {
        assert_eq!(
            report.value(&format!("cpu{cpu}")),
            format!("{cpu} 0-15 {cpu} 0")
        );
    }
    assert_eq!(report.complaints(), [""; 0]);
}

#[test]
fn processors_speak_with_each_other_and_tell_the_time_without_exits() {
    let report = processors(2, "");
    let log = report.section("dmesg").join("\n");
    assert!(log.contains("x2apic enabled"), "{log}");
    assert!(log.contains("TSC deadline timer available"), "{log}");
    let clocks = report.value("clocks");
    assert!(
        clocks.contains("kvm-clock") && clocks.contains("tsc"),
        "{clocks}"
    );
}

#[test]
fn processors_say_what_a_guest_may_use() {
    let report = processors(2, "");
    let flags: Vec<_> = report.value("flags").split(' ').collect();
    for flag in ["hypervisor", "x2apic", "tsc_deadline_timer"] {
        assert!(flags.contains(&flag), "{flag} is not in {flags:?}");
    }
    // Neither nested virtualisation nor performance counters, unless asked for.
    for flag in ["vmx", "svm", "arch_perfmon", "perfctr_core"] {
        assert!(!flags.contains(&flag), "{flag} is in {flags:?}");
    }
}

#[test]
fn threads_share_a_core_where_that_is_wanted() {
    let definition = tempfile::NamedTempFile::new().unwrap();
    let kernel = ampoule_tests::linux::Image::Given.path();
    let json = format!(
        r#"{{"boot-source": {{"kernel_image_path": "{}"}}, "machine-config": {{"vcpu_count": 4, "mem_size_mib": 256, "smt": true}}}}"#,
        kernel.display()
    );
    std::fs::write(definition.path(), json).unwrap();
    let report = linux()
        .with(&format!("--config {}", definition.path().display()))
        .script(PROCESSORS)
        .report();
    for (cpu, place) in ["0-1 0-3 0 0", "0-1 0-3 0 0", "2-3 0-3 1 0", "2-3 0-3 1 0"]
        .iter()
        .enumerate()
    {
        assert_eq!(report.value(&format!("cpu{cpu}")), *place);
    }
}

#[test]
fn the_largest_machine_shows_all_its_processors() {
    // Only two are started: on an emulated processor the other 252 would take minutes.
    let report = linux()
        .with("--memory 512M --cpus 254")
        .parameters("maxcpus=2")
        .script(
            "cd /sys/devices/system/cpu; echo present=$(cat present); echo online=$(cat online)",
        )
        .report();
    assert_eq!(report.value("present"), "0-253");
    assert_eq!(report.value("online"), "0-1");
}

#[test]
fn many_processors_where_there_is_time_for_them() {
    if std::env::var_os("AMPOULE_TEST_FULL").is_none() {
        return;
    }
    assert_eq!(processors(64, "").value("online"), "0-63");
}
