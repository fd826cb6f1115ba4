use serde_json::json;
use vmm::{config, virtio::balloon};

use crate::api::{
    Resources, Status,
    resources::tests::{Fake, ask, assert_fault, json_of, resources},
};

/// A machine of 128 MiB with a balloon.
fn machine(free_page_hinting: bool) -> Resources<Fake> {
    let mut machine = resources(vec![]);
    let options = balloon::Options {
        hinting: free_page_hinting,
        ..balloon::Options::default()
    };
    let device = balloon::Balloon::new(options).unwrap();
    machine.about.devices.balloon = Some(device.handle());
    machine.about.definition.balloon = Some(config::Balloon {
        free_page_hinting,
        ..config::Balloon::default()
    });
    machine
}

#[test]
fn the_target_is_changed_and_told_everywhere() {
    let mut machine = machine(false);
    let response = ask(&mut machine, "PATCH /balloon", r#"{"amount_mib": 64}"#);
    assert_eq!(response.status, Status::NoContent);
    let balloon = json_of(&ask(&mut machine, "GET /balloon", ""));
    assert_eq!(balloon["amount_mib"], 64);
    assert_eq!(balloon["deflate_on_oom"], false);
    let config = json_of(&ask(&mut machine, "GET /vm/config", ""));
    assert_eq!(config["balloon"], balloon);
    let statistics = json_of(&ask(&mut machine, "GET /balloon/statistics", ""));
    let expected =
        json!({ "target_pages": 16384, "actual_pages": 0, "target_mib": 64, "actual_mib": 0 });
    assert_eq!(statistics, expected);
}

#[test]
fn the_interval_of_statistics_is_changed() {
    let mut machine = machine(false);
    let body = r#"{"stats_polling_interval_s": 7}"#;
    let response = ask(&mut machine, "PATCH /balloon/statistics", body);
    assert_eq!(response.status, Status::NoContent);
    let balloon = json_of(&ask(&mut machine, "GET /balloon", ""));
    assert_eq!(balloon["stats_polling_interval_s"], 7);
}

#[test]
fn hints_are_begun_and_ended() {
    let mut machine = machine(true);
    let status = |machine: &mut _| json_of(&ask(machine, "GET /balloon/hinting/status", ""));
    assert_eq!(status(&mut machine), json!({ "host_cmd": 0 }));
    for body in ["", "{}", r#"{"acknowledge_on_stop": false}"#] {
        let response = ask(&mut machine, "PATCH /balloon/hinting/start", body);
        assert_eq!(response.status, Status::NoContent);
    }
    assert_eq!(status(&mut machine), json!({ "host_cmd": 4 }));
    let response = ask(&mut machine, "PATCH /balloon/hinting/stop", "{}");
    assert_eq!(response.status, Status::NoContent);
    assert_eq!(status(&mut machine), json!({ "host_cmd": 1 }));
}

#[test]
fn what_a_balloon_cannot_do_is_said() {
    let mut machine = machine(false);
    for (line, body, why) in [
        (
            "PATCH /balloon",
            r#"{"amount_mib": 129}"#,
            "at most the guest's memory, 128",
        ),
        ("PATCH /balloon", "{}", "missing field `amount_mib`"),
        ("PATCH /balloon", "", "the body is missing"),
        (
            "PATCH /balloon/statistics",
            r#"{"stats_polling_interval_s": 65536}"#,
            "from 0 to 65535",
        ),
        (
            "PATCH /balloon/hinting/start",
            "",
            "without `free_page_hinting`",
        ),
        ("GET /balloon/else", "", "no such resource"),
        ("PATCH /balloon/statistics/else", "{}", "no such resource"),
        (
            "PUT /balloon",
            r#"{"amount_mib": 1, "deflate_on_oom": true}"#,
            "after the start",
        ),
    ] {
        assert_fault(&ask(&mut machine, line, body), why);
    }
    let mut bare = resources(vec![]);
    assert_fault(&ask(&mut bare, "GET /balloon", ""), "no balloon");
    assert!(json_of(&ask(&mut bare, "GET /vm/config", ""))["balloon"].is_null());
}
