//! `/balloon` and what is below it: its size, what the guest tells of its memory, runs of hints.
use vmm::{
    config::{Balloon, BalloonUpdate, Definition, HintingStart, StatisticsUpdate},
    virtio::balloon::Handle,
};

use super::{
    http::{Method, Request},
    resources::{with_body, with_body_or_none},
    response::Response,
};

/// Answers a request for what `names` name below `/balloon`.
pub(super) fn answer(
    definition: &mut Definition,
    handle: Option<&Handle>,
    request: &Request,
    names: (Option<&str>, Option<&str>),
) -> Option<Response> {
    let memory = definition.machine_config.mem_size_mib;
    let (Some(balloon), Some(handle)) = (&mut definition.balloon, handle) else {
        return Some(Response::fault(
            "the guest has no balloon: its definition has no `balloon`",
        ));
    };
    let hints = balloon.free_page_hinting;
    Some(match (request.method, names) {
        (Method::Get, (None, None)) => Response::json(balloon),
        (Method::Patch, (None, None)) => {
            with_body(request, |body| set_amount(balloon, handle, memory, body))
        }
        (Method::Get, (Some("statistics"), None)) => Response::json(&handle.report()),
        (Method::Patch, (Some("statistics"), None)) => {
            with_body(request, |body| set_interval(balloon, handle, body))
        }
        (_, (Some("hinting"), Some(_))) if !hints => {
            Response::fault("the balloon was made without `free_page_hinting`")
        }
        (Method::Patch, (Some("hinting"), Some("start"))) => {
            with_body_or_none(request, |body: HintingStart| {
                handle.start_hints(body.acknowledge_on_stop);
                Response::done()
            })
        }
        // Firecracker's clients may send a body, in which nothing stands.
        (Method::Patch, (Some("hinting"), Some("stop"))) => {
            handle.stop_hints();
            Response::done()
        }
        (Method::Get, (Some("hinting"), Some("status"))) => Response::json(&handle.hint_status()),
        _ => return None,
    })
}

fn set_amount(
    balloon: &mut Balloon,
    handle: &Handle,
    memory: u64,
    update: BalloonUpdate,
) -> Response {
    let amount = update.amount_mib;
    if u64::from(amount) > memory {
        return Response::fault(format_args!(
            "`amount_mib`: found {amount}, expected at most the guest's memory, {memory}"
        ));
    }
    balloon.amount_mib = amount;
    handle.set_target(amount);
    Response::done()
}

fn set_interval(balloon: &mut Balloon, handle: &Handle, update: StatisticsUpdate) -> Response {
    balloon.stats_polling_interval_s = update.stats_polling_interval_s;
    handle.set_interval(update.stats_polling_interval_s);
    Response::done()
}

#[cfg(test)]
mod tests;
